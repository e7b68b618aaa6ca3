// The bar with the access token, and the fetcher that sends GraphiQL's operations to the API.
'use strict';

(() => {
  const root = document.getElementById('graphiql');
  const tokenInput = document.getElementById('access-token');
  const signedIn = document.getElementById('signed-in');
  const tokenNote = document.getElementById('token-note');
  const signOutButton = document.getElementById('sign-out');

  // One path serves all transports; only the scheme differs.
  const endpoint = new URL(root.dataset.endpoint, location.href);
  const socketEndpoint = new URL(endpoint);
  socketEndpoint.protocol = endpoint.protocol === 'https:' ? 'wss:' : 'ws:';

  // The signed-in user

  // sessionStorage belongs to one browser tab. So two tabs can have two users, and the token
  // is deleted with its tab.
  const TOKEN = 'parley:accessToken';
  const NICKNAME = 'parley:nickname';

  // The subscriptions with the token of the bar, as functions that end them and show a reason.
  const followers = new Set();

  const accessToken = () => sessionStorage.getItem(TOKEN) ?? '';

  function setAccessToken(token, nickname, note) {
    tokenInput.value = token;
    keepAccessToken(token, nickname, note);
  }

  // setAccessToken without a change of the input, in which the user is typing.
  function keepAccessToken(token, nickname, note) {
    const changed = token !== accessToken();
    sessionStorage.setItem(TOKEN, token);
    sessionStorage.setItem(NICKNAME, nickname);
    showUser(note);
    // A socket keeps the user with whom it was opened. It would go on showing what the
    // earlier user may see.
    if (changed) {
      for (const end of [...followers]) {
        end('The access token has changed. Run the subscription again to follow with the new one.');
      }
    }
  }

  function showUser(note) {
    const token = accessToken();
    const nickname = sessionStorage.getItem(NICKNAME);
    if (token === '') {
      signedIn.textContent = 'Not signed in';
    } else {
      signedIn.textContent = nickname ? `Signed in as ${nickname}` : 'Token entered by hand';
    }
    tokenNote.textContent = note;
    signOutButton.disabled = token === '';
  }

  // Users often paste the whole header.
  tokenInput.addEventListener('input', () => {
    keepAccessToken(tokenInput.value.trim().replace(/^Bearer\s+/i, ''), '', '');
  });
  tokenInput.addEventListener('change', () => {
    tokenInput.value = accessToken();
  });

  signOutButton.addEventListener('click', async () => {
    const token = accessToken();
    // The token is deleted first, so that this tab no longer acts for the user,
    // whatever the server answers.
    setAccessToken('', '', 'Signed out.');
    const result = await post(
      {query: 'mutation SignOut { logout { userErrors { code } } }', operationName: 'SignOut'},
      {Authorization: `Bearer ${token}`},
    );
    // If the token is refused, its session has ended already.
    const refused = result.errors?.[0]?.extensions?.code === 'UNAUTHENTICATED';
    if (result.errors && !refused && accessToken() === '') {
      showUser('The token is deleted, but the server could not end the session.');
    }
  });

  // The fields whose answer has tokens.
  const SIGNING_IN = new Set(['register', 'login', 'refreshSession']);

  // If a response signs in several users, the last one stays, because the fields of a
  // mutation run in order.
  function readTokens(operation, result) {
    if (operation?.operation !== 'mutation' || !result.data) {
      return;
    }
    for (const {kind, name, alias} of operation.selectionSet.selections) {
      if (kind !== 'Field') {
        continue;
      }
      const answer = result.data[(alias ?? name).value];
      if (SIGNING_IN.has(name.value) && typeof answer?.tokens?.accessToken === 'string') {
        // A refreshed session has the same user. The nickname stays if the
        // document does not request it.
        const before = name.value === 'refreshSession' ? sessionStorage.getItem(NICKNAME) : '';
        const nickname = answer.viewer?.user?.nickname ?? before ?? '';
        setAccessToken(answer.tokens.accessToken, nickname, `Token taken from ${name.value}.`);
      } else if (name.value === 'logout' && answer) {
        setAccessToken('', '', 'Signed out.');
      }
    }
  }

  // From GraphiQL to the API

  const failure = (message) => ({errors: [{message}]});

  // An Authorization in GraphiQL's Headers editor wins over the bar. An empty one makes the
  // request anonymous. Header names ignore case, but connection parameters do not, so the
  // name gets one spelling.
  function withAuthorization(headers) {
    const all = {};
    for (const [name, value] of Object.entries(headers ?? {})) {
      all[name.toLowerCase() === 'authorization' ? 'Authorization' : name] = value;
    }
    const ownToken = !('Authorization' in all);
    if (ownToken && accessToken() !== '') {
      all.Authorization = `Bearer ${accessToken()}`;
    }
    return {all, ownToken};
  }

  async function post(params, headers) {
    let response;
    try {
      response = await fetch(endpoint, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/json',
          Accept: 'application/graphql-response+json, application/json;q=0.9',
          ...headers,
        },
        body: JSON.stringify(params),
        // The API must not get the cookies of other applications on this host.
        credentials: 'omit',
      });
      return await response.json();
    } catch (error) {
      // The answer of a proxy is not JSON.
      return failure(response ? `The server answered ${response.status} ${response.statusText}, not with GraphQL.`
        : `No answer from the server: ${error.message}`);
    }
  }

  // Each subscription has its own socket, which connects with the current token. It does not
  // reconnect by itself, because a repeated subscription would show the earlier results
  // again.
  function subscribe(params, {all, ownToken}) {
    return {
      subscribe(observer) {
        const client = graphqlWs.createClient({
          url: socketEndpoint.href,
          connectionParams: all,
          retryAttempts: 0,
          // Every failure is shown to the user already.
          onNonLazyError: () => {},
        });
        let open = true;
        const close = () => {
          open = false;
          followers.delete(end);
        };
        const end = (message) => {
          if (!open) {
            return;
          }
          close();
          if (message) {
            observer.next(failure(message));
          }
          observer.complete();
          dispose();
        };
        const dispose = client.subscribe(params, {
          next: (result) => open && observer.next(result),
          error: (error) => {
            if (Array.isArray(error) && open) {
              observer.next({errors: error});
              end();
            } else {
              end(whyClosed(error));
            }
          },
          complete: () => end(),
        });
        if (ownToken) {
          followers.add(end);
        }
        return {
          unsubscribe() {
            close();
            dispose();
          },
        };
      },
    };
  }

  function whyClosed(error) {
    if (error instanceof CloseEvent) {
      const reason = [error.code, error.reason].filter(Boolean).join(' ');
      return `The connection was closed (${reason}). Run the subscription again to go on.`;
    }
    // If a socket was never opened, the error is an event without a message: browsers
    // hide the cause from scripts.
    return error?.message ? `The connection failed: ${error.message}` : 'The WebSocket could not be opened.';
  }

  // The operation that runs; undefined if the document cannot be parsed, which the server explains.
  function operationOf({query, operationName}) {
    try {
      const operations = GraphiQL.GraphQL.parse(query).definitions.filter(({kind}) => kind === 'OperationDefinition');
      // Shortly after a change of tabs, GraphiQL still passes the operation name
      // of the previous tab.
      return operations.length === 1 ? operations[0] : operations.find(({name}) => name?.value === operationName);
    } catch {
      return undefined;
    }
  }

  async function fetcher(graphiqlParams, options) {
    const operation = operationOf(graphiqlParams);
    const params = {...graphiqlParams, operationName: operation ? operation.name?.value : graphiqlParams.operationName};
    const headers = withAuthorization(options?.headers);
    if (operation?.operation === 'subscription') {
      return subscribe(params, headers);
    }
    const result = await post(params, headers.all);
    readTokens(operation, result);
    return result;
  }

  // The page

  // GraphiQL stores what the user writes, including passwords and tokens in variables and
  // headers. Its history stores headers even without shouldPersistHeaders. By default it uses
  // localStorage, for ever and for all tabs. In sessionStorage the texts survive a reload and
  // nothing else.
  const storage = {
    getItem: (key) => sessionStorage.getItem(key),
    setItem: (key, value) => sessionStorage.setItem(key, value),
    removeItem: (key) => sessionStorage.removeItem(key),
    get length() {
      return sessionStorage.length;
    },
    // "Clear data" in GraphiQL's settings clears the editors, and does not sign out.
    clear() {
      for (const key of Object.keys(sessionStorage).filter((key) => key.startsWith('graphiql:'))) {
        sessionStorage.removeItem(key);
      }
    },
  };

  async function start() {
    tokenInput.value = accessToken();
    showUser('');
    const response = await fetch(root.dataset.operations);
    if (!response.ok) {
      throw new Error(`${response.status} ${response.statusText}`);
    }
    const defaultTabs = await response.json();
    // GraphiQL uses the query of the first default tab, and its variables only from the storage.
    if (storage.getItem('graphiql:tabState') === null) {
      storage.setItem('graphiql:variables', defaultTabs[0].variables);
    }
    ReactDOM.createRoot(root).render(React.createElement(GraphiQL, {
      fetcher,
      storage,
      defaultTabs,
      defaultEditorToolsVisibility: 'variables',
      shouldPersistHeaders: false,
      schemaDescription: true, // the API's conventions
      inputValueDeprecation: true,
      // For automated tests: the editors have the schema.
      onSchemaChange: () => {
        root.dataset.schema = 'loaded';
      },
    }));
  }

  start().catch((error) => {
    const message = document.createElement('p');
    message.setAttribute('role', 'alert');
    message.textContent = `The playground could not start: ${error.message}. Reload the page to try again.`;
    root.replaceChildren(message);
  });
})();

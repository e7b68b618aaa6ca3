// The playground's own part: the bar with the access token, and the way by which GraphiQL's operations reach the API.
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

  // ── Who is signed in ──────────────────────────────────────────────────────────────────────────────────────────────

  // sessionStorage belongs to one browser tab, so two tabs can be two people, and the token ends with its tab.
  const TOKEN = 'parley:accessToken';
  const NICKNAME = 'parley:nickname';

  // Subscriptions that run with the token of the bar. Each is a function that ends one and tells its reader why.
  const followers = new Set();

  const accessToken = () => sessionStorage.getItem(TOKEN) ?? '';

  function setAccessToken(token, nickname, note) {
    tokenInput.value = token;
    keepAccessToken(token, nickname, note);
  }

  // As setAccessToken, but leaves the input alone, for the sake of whoever is typing there.
  function keepAccessToken(token, nickname, note) {
    const changed = token !== accessToken();
    sessionStorage.setItem(TOKEN, token);
    sessionStorage.setItem(NICKNAME, nickname);
    showWho(note);
    // A socket is who it was when it connected. Left open, it would go on showing what the earlier person may see.
    if (changed) {
      for (const end of [...followers]) {
        end('The access token has changed. Run the subscription again to follow with the new one.');
      }
    }
  }

  function showWho(note) {
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

  // What people paste often is the whole header.
  tokenInput.addEventListener('input', () => {
    keepAccessToken(tokenInput.value.trim().replace(/^Bearer\s+/i, ''), '', '');
  });
  tokenInput.addEventListener('change', () => {
    tokenInput.value = accessToken();
  });

  signOutButton.addEventListener('click', async () => {
    const token = accessToken();
    // Forgotten first: whatever the answer, and however long it takes, this tab no longer acts for the person.
    setAccessToken('', '', 'Signed out.');
    const result = await post(
      {query: 'mutation SignOut { logout { userErrors { code } } }', operationName: 'SignOut'},
      {Authorization: `Bearer ${token}`},
    );
    // A token that is refused here has no session left to end.
    const refused = result.errors?.[0]?.extensions?.code === 'UNAUTHENTICATED';
    if (result.errors && !refused && accessToken() === '') {
      showWho('The token is forgotten, but the server could not end the session.');
    }
  });

  // The fields whose answer carries tokens, and the one after which there are none.
  const SIGNING_IN = new Set(['register', 'login', 'refreshSession']);

  // Where a response signs in several people, the last one stays: fields of a mutation run one after the other.
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
        // A refreshed session is the same person's, so a document that does not ask for the name need not lose it.
        const before = name.value === 'refreshSession' ? sessionStorage.getItem(NICKNAME) : '';
        const nickname = answer.viewer?.user?.nickname ?? before ?? '';
        setAccessToken(answer.tokens.accessToken, nickname, `Token taken from ${name.value}.`);
      } else if (name.value === 'logout' && answer) {
        setAccessToken('', '', 'Signed out.');
      }
    }
  }

  // ── From GraphiQL to the API ──────────────────────────────────────────────────────────────────────────────────────

  const failure = (message) => ({errors: [{message}]});

  // An Authorization written into GraphiQL's Headers editor wins over the bar, an empty one too: that is how to see what
  // a stranger sees. Header names have no case, but a connection parameter has, hence the one spelling.
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
        // A cookie of another application on this host is none of the API's business.
        credentials: 'omit',
      });
      return await response.json();
    } catch (error) {
      // A proxy between here and the API answers in its own words, and not in JSON.
      return failure(response ? `The server answered ${response.status} ${response.statusText}, not with GraphQL.`
        : `No answer from the server: ${error.message}`);
    }
  }

  // Each subscription gets a socket of its own, so that it always connects with the token of the moment. The connection
  // is not retried behind a person's back: a repeated subscription would show again what was there before.
  function subscribe(params, {all, ownToken}) {
    return {
      subscribe(observer) {
        const client = graphqlWs.createClient({
          url: socketEndpoint.href,
          connectionParams: all,
          retryAttempts: 0,
          // The reader is told of every failure already.
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
    // A socket that never opened comes as an event without a message: the browser hides the cause from scripts.
    return error?.message ? `The connection failed: ${error.message}` : 'The WebSocket could not be opened.';
  }

  // The operation that is meant; undefined where the document cannot be read, which then is the server's to explain.
  function operationOf({query, operationName}) {
    try {
      const operations = GraphiQL.GraphQL.parse(query).definitions.filter(({kind}) => kind === 'OperationDefinition');
      // Shortly after a change of tabs, GraphiQL still gives the operation name of the tab before.
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

  // ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────

  // GraphiQL keeps what a person writes, which here includes passwords and whatever tokens are pasted into variables or
  // headers, and its history keeps headers whatever shouldPersistHeaders says. By default it keeps them in localStorage,
  // for ever and for all tabs; in sessionStorage they survive a reload and nothing else.
  const storage = {
    getItem: (key) => sessionStorage.getItem(key),
    setItem: (key, value) => sessionStorage.setItem(key, value),
    removeItem: (key) => sessionStorage.removeItem(key),
    get length() {
      return sessionStorage.length;
    },
    // "Clear data" in GraphiQL's settings is about the editors; it signs nobody out.
    clear() {
      for (const key of Object.keys(sessionStorage).filter((key) => key.startsWith('graphiql:'))) {
        sessionStorage.removeItem(key);
      }
    },
  };

  async function start() {
    tokenInput.value = accessToken();
    showWho('');
    const response = await fetch(root.dataset.operations);
    if (!response.ok) {
      throw new Error(`${response.status} ${response.statusText}`);
    }
    const defaultTabs = await response.json();
    // GraphiQL takes the query of the first default tab, but not its variables, unless it finds them in its storage.
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
      // For automated tests: from now on, the editors know the schema.
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

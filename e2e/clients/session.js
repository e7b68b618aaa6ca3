// The session of the user: keeps the tokens, renews them in time, and holds the one WebSocket.
import {createClient} from 'graphql-ws';

const KEY = 'parley.refreshToken';

const REFRESH = `mutation Refresh($input: RefreshSessionInput!) {
  refreshSession(input: $input) { tokens { accessToken expiresAt refreshToken } userErrors { code } }
}`;

export function createSession({url, onSignedOut = () => {}, storage = localStorage}) {
  let accessToken; // in memory alone; the refresh token is in the storage, for all tabs and the next visit
  let due = 0; // when to trade them
  let timer;
  let renewing;
  let connected = false;
  let closed = false;

  const isSignedIn = () => storage.getItem(KEY) !== null;
  const isStale = () => isSignedIn() && Date.now() >= due;
  const headers = () => (accessToken ? {Authorization: `Bearer ${accessToken}`} : {});

  function keep(tokens) {
    storage.setItem(KEY, tokens.refreshToken);
    accessToken = tokens.accessToken;
    // Half of its life is left then: browsers let the timers of a tab in the background be late by a minute.
    const wait = (Date.parse(tokens.expiresAt) - Date.now()) / 2;
    due = Date.now() + wait;
    renewSocketIn(wait);
  }

  // After `register` or `login`. An open socket belongs to the previous user, and reconnects as the new one.
  function signIn(tokens) {
    keep(tokens);
    socket.terminate();
  }

  // After `logout`, and when the session has ended by itself.
  function forget() {
    storage.removeItem(KEY);
    accessToken = undefined;
    due = 0;
    clearTimeout(timer);
  }

  // Trades the tokens, once for all callers at the same time. Resolves to false if the user is no longer signed in. Throws if
  // there is no answer now: then it may be called again.
  function renew() {
    renewing ??= trade().finally(() => {
      renewing = undefined;
    });
    return renewing;
  }

  async function trade() {
    const refreshToken = storage.getItem(KEY);
    if (refreshToken === null) {
      return false;
    }
    const request = {query: REFRESH, variables: {input: {refreshToken}}};
    // Over the socket where there is one, which stays open by that. If it breaks before the answer has come, the token may
    // be sent again: for 10 seconds, the answer is the same.
    const {data, errors} = await (connected ? overSocket(request).catch(() => overHTTP(request)) : overHTTP(request));
    if (errors) {
      throw new Error(errors[0].message); // RATE_LIMITED, UNAVAILABLE: later
    }
    const {tokens} = data.refreshSession;
    const stored = storage.getItem(KEY);
    if (stored !== refreshToken && stored !== tokens?.refreshToken) {
      return isSignedIn(); // meanwhile the user signed out, or another one signed in
    }
    if (tokens === null) { // TOKEN_EXPIRED
      forget();
      onSignedOut();
      return false;
    }
    keep(tokens);
    return true;
  }

  async function overHTTP(request) {
    const response = await fetch(url, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify(request),
    });
    return response.json();
  }

  function overSocket(request) {
    let stop;
    let unlisten;
    return new Promise((resolve, reject) => {
      unlisten = socket.on('closed', reject);
      stop = socket.subscribe(request, {next: resolve, error: reject, complete: reject});
    }).finally(() => {
      unlisten();
      stop();
    });
  }

  function renewSocketIn(wait) {
    clearTimeout(timer);
    if (closed) {
      return;
    }
    timer = setTimeout(() => {
      if (connected) {
        renew().catch(() => renewSocketIn(5_000));
      }
    }, wait);
  }

  const socket = createClient({
    url: url.replace(/^http/, 'ws'),
    // Asked at every connection, so that each begins with a token that works.
    async connectionParams() {
      if (isStale()) {
        await renew();
      }
      if (!accessToken) {
        throw new Error('Not signed in.');
      }
      return headers();
    },
    // Networks and servers come back, so it retries for as long as the user is signed in.
    retryAttempts: Infinity,
    shouldRetry: isSignedIn,
    retryWait: (retries) => new Promise((resolve) => {
      setTimeout(resolve, Math.random() * Math.min(30_000, 500 * 2 ** retries));
    }),
    on: {
      connected() {
        connected = true;
      },
      closed({code}) {
        connected = false;
        if (code === 4403) { // this access token is no longer valid
          due = 0;
        }
      },
    },
  });

  // graphql-ws sends the payload once more after each reconnection. By then it asks for what came after the last item, in a
  // document that has $after and selects the cursor.
  function subscribe({query, operationName, variables}, sink) {
    const payload = {query, operationName, variables: {...variables}};
    return socket.subscribe(payload, {
      next(result) {
        const [item] = Object.values(result.data ?? {});
        if (item?.cursor) {
          payload.variables.after = item.cursor;
          delete payload.variables.afterSeq; // only one of the two may be given
        }
        sink.next(result);
      },
      error: (error) => sink.error(error),
      complete: () => sink.complete(),
    });
  }

  function close() {
    closed = true;
    clearTimeout(timer);
    return socket.dispose();
  }

  return {isSignedIn, isStale, headers, signIn, forget, renew, request: overSocket, subscribe, close};
}

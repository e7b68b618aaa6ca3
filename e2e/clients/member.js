// An application, made as docs/accounts.md describes. Parameters: api; client, apollo or urql; clockBehind, by how many
// milliseconds the clock of the device is late. Each instruction is one operation: a subscription begins, and any other is
// answered by one event "done" with its result.
import {gql as parse} from '@apollo/client';
import {CombinedGraphQLErrors} from '@apollo/client/errors';
import WebSocket from 'ws';

import {createApollo} from './apollo.js';
import {atEnd, emit, instruction, params} from './script.js';
import {createSession} from './session.js';
import {createUrql} from './urql.js';

// Parts of a browser that Node.js lacks. All network traffic passes here, and is reported as events.
const kept = new Map();
globalThis.localStorage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
};

globalThis.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener('message', ({data}) => {
      if (JSON.parse(data).type === 'connection_ack') {
        emit('connected');
      }
    });
    this.addEventListener('close', ({code, reason}) => emit('closed', {code, reason}));
  }

  send(data, ...rest) {
    if (data.includes('refreshSession')) {
      emit('renewed', {reason: 'socket'});
    }
    super.send(data, ...rest);
  }
};

const plainFetch = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  if (options.body.includes('refreshSession')) {
    emit('renewed', {reason: 'http'});
  }
  const response = await plainFetch(url, options);
  if ((await response.clone().text()).includes('"UNAUTHENTICATED"')) {
    emit('unauthenticated');
  }
  return response;
};

const rightNow = Date.now;
Date.now = () => rightNow() - (params.clockBehind ?? 0);

const {api: url} = params;
const session = createSession({url, onSignedOut: () => emit('signed-out')});

const libraries = {
  apollo() {
    const client = createApollo({url, session});
    const result = ({data, error}) => ({data, errors: CombinedGraphQLErrors.is(error) ? error.errors : error && [error]});
    return {
      async query(query, variables) {
        return result(await client.query({query: parse(query), variables, fetchPolicy: 'no-cache', errorPolicy: 'all'}));
      },
      async mutate(query, variables) {
        return result(await client.mutate({mutation: parse(query), variables, errorPolicy: 'all'}));
      },
      subscribe(query, variables, next) {
        client.subscribe({query: parse(query), variables}).subscribe((r) => next(result(r)));
      },
    };
  },

  urql() {
    const client = createUrql({url, session});
    const result = ({data, error}) => ({data, errors: error && (error.networkError ? [error.networkError] : error.graphQLErrors)});
    return {
      async query(query, variables) {
        return result(await client.query(query, variables, {requestPolicy: 'network-only'}).toPromise());
      },
      async mutate(query, variables) {
        return result(await client.mutation(query, variables).toPromise());
      },
      subscribe(query, variables, next) {
        client.subscription(query, variables).subscribe((r) => next(result(r)));
      },
    };
  },
};

const client = libraries[params.client]();

async function obey() {
  for (;;) {
    const {query, variables} = await instruction();
    if (query.startsWith('subscription')) {
      client.subscribe(query, variables, (result) => emit(result.errors ? 'ended' : 'next', {result}));
      continue;
    }
    const result = await client[query.startsWith('mutation') ? 'mutate' : 'query'](query, variables);
    const payload = result.data?.register ?? result.data?.login;
    if (payload?.tokens) {
      session.signIn(payload.tokens);
    }
    if (result.data?.logout) {
      session.forget();
    }
    emit('done', {result});
  }
}
obey();

atEnd(() => session.close());

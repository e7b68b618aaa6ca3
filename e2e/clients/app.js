// An application with a conversation on the screen and a local store, made of the files of docs/accounts.md. Parameters: api;
// client, graphql-ws, apollo or urql; tokens; conversationId. Each instruction is a message to send, {content, idempotencyKey}.
// The events are what the library gives: "item" of a stream, "notice" if it ends, "sent"; and what the application has then,
// "shown" and "stored".
import WebSocket from 'ws';

import {createApollo, withApollo} from './apollo.js';
import {openConversation} from './conversation.js';
import {withGraphQLWS} from './graphqlws.js';
import {atEnd, emit, instruction, params} from './script.js';
import {createSession} from './session.js';
import {openStore} from './store.js';
import {createUrql, withUrql} from './urql.js';

globalThis.WebSocket = WebSocket;
const kept = new Map();
const storage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
};

const {api: url, tokens, conversationId: id} = params;
const session = createSession({url, storage});
session.signIn(tokens);

const library = {
  'graphql-ws': () => withGraphQLWS(session),
  apollo: () => withApollo(createApollo({url, session})),
  urql: () => withUrql(createUrql({url, session})),
}[params.client]();

// The same, and reports what happens.
const observed = {
  query: library.query,
  async mutate(query, variables) {
    const data = await library.mutate(query, variables);
    emit('sent', {message: data.sendMessage.message});
    return data;
  },
  subscribe: (query, variables, {next, error}) => library.subscribe(query, variables, {
    next(data) {
      const [[stream, item]] = Object.entries(data);
      const {event = {added: item}} = item;
      emit(event.__typename === 'StreamReset' ? 'notice' : 'item', {stream, message: event.added ?? event.changed});
      next(data);
    },
    error(errors) {
      emit('notice', {stream: 'messageAdded', errors});
      error(errors);
    },
  }),
};

const fail = (error) => {
  console.error(error);
  process.exit(1);
};
const conversation = openConversation({
  id, library: observed, outbox: new Map(), onEnd: fail, show: (messages) => emit('shown', {messages}),
});
let state;
const store = openStore({
  library: observed,
  onError: fail,
  read: () => state && JSON.parse(state),
  write(value) {
    state = JSON.stringify(value);
    emit('stored', {messages: Object.values(value.conversations[id].messages).sort((a, b) => a.seq - b.seq)});
  },
});

async function obey() {
  for (;;) {
    const {content, idempotencyKey} = await instruction();
    conversation.send(content, idempotencyKey);
  }
}
obey();

atEnd(() => {
  conversation.close();
  store.close();
  return session.close();
});

// A local store of all conversations. It follows `events`, and keeps its place together with what it has: both are written at
// once, so that an app that is ended at any moment continues with nothing missing and nothing from another history.
import {untilServed} from './conversation.js';

const MESSAGE = `id seq content createdAt author { nickname }`;

const CONVERSATION = `id title messages(last: 20) { nodes { ${MESSAGE} } }`;

const LOAD = `query Load($after: String) {
  viewer {
    eventsCursor
    conversations(first: 20, after: $after) { nodes { ${CONVERSATION} } pageInfo { hasNextPage endCursor } }
  }
}`;

const LOAD_ONE = `query LoadOne($id: ID!) { conversation(id: $id) { ${CONVERSATION} } }`;

const FOLLOW = `subscription FollowAll($after: String) {
  events(after: $after) {
    cursor
    conversationId
    event {
      __typename
      ... on MessageAdded { added: message { ${MESSAGE} } }
      ... on MessageEdited { changed: message { ${MESSAGE} } }
      ... on MessageDeleted { changed: message { ${MESSAGE} } }
    }
  }
}`;

// library is one of those of graphqlws.js, apollo.js and urql.js. read returns what write was given last, if anything; write is
// one transaction. The state has the cursor, and the conversations by id, each with its messages by id.
export function openStore({library, read, write, onReset = () => {}, onError}) {
  let turn = Promise.resolve(); // items are processed one after another: fetching takes a while
  let unsubscribe = () => {};
  let closed = false;

  const keep = (state, {id, title, messages: {nodes}}) => {
    state.conversations[id] = {title, messages: Object.fromEntries(nodes.map((message) => [message.id, message]))};
  };

  // The cursor of the first page: what happens while the others are fetched comes from the stream.
  async function load() {
    const state = {conversations: {}};
    for (let after = null, more = true; more;) {
      const {viewer: {eventsCursor, conversations}} = await untilServed(() => library.query(LOAD, {after}));
      state.cursor ??= eventsCursor;
      conversations.nodes.forEach((conversation) => keep(state, conversation));
      ({hasNextPage: more, endCursor: after} = conversations.pageInfo);
    }
    return state;
  }

  async function loadOne(state, id) {
    const {conversation} = await untilServed(() => library.query(LOAD_ONE, {id}));
    if (conversation) { // if not, the viewer has left it since, which comes later
      keep(state, conversation);
    }
  }

  async function process({cursor, conversationId: id, event}) {
    let state = read();
    const message = event.added ?? event.changed;
    if (event.__typename === 'StreamReset') { // nothing that is stored may stay
      onReset();
      state = await load();
    } else if (event.__typename === 'ConversationLeft') {
      delete state.conversations[id];
    } else if (id && !state.conversations[id]) { // just joined
      await loadOne(state, id);
    } else if (message) {
      state.conversations[id].messages[message.id] = message;
    }
    write({...state, cursor});
  }

  function follow() {
    if (closed) {
      return;
    }
    unsubscribe = library.subscribe(FOLLOW, {after: read().cursor}, {
      next({events}) {
        turn = turn.then(() => process(events));
        turn.catch(onError);
      },
      error: onError,
    });
  }

  async function start() {
    if (!read()) {
      write(await load());
    }
    follow();
  }

  function close() {
    closed = true;
    unsubscribe();
  }

  start().catch(onError);
  return {close};
}

// One conversation on the screen: its newest messages, and each new one. When the history of the server's database has changed,
// it starts again: it fetches everything, and sends again what was sent from here and is lost.
const MESSAGE = `id seq content createdAt author { nickname }`;

const LOAD = `query Load($id: ID!) {
  conversation(id: $id) { eventsCursor messages(last: 50) { nodes { ${MESSAGE} } } }
}`;

const FOLLOW = `subscription Follow($id: ID!, $after: String) {
  messageAdded(conversationId: $id, after: $after) { cursor ${MESSAGE} }
}`;

const SEND = `mutation Send($input: SendMessageInput!) {
  sendMessage(input: $input) { message { ${MESSAGE} } userErrors { code message } }
}`;

// library is one of those of graphqlws.js, apollo.js and urql.js. outbox has what was sent from here, by idempotency key: a Map that the
// app stores. show gets all messages, oldest first.
export function openConversation({id, library, outbox, show, onEnd}) {
  let messages = new Map(); // by id
  let unsubscribe = () => {};
  let closed = false;

  function put(list) {
    for (const message of list) {
      messages.set(message.id, message);
    }
    show([...messages.values()].sort((a, b) => a.seq - b.seq));
  }

  // What was loaded before is from another history, or older, so all of it is replaced.
  async function load() {
    const {conversation} = await untilServed(() => library.query(LOAD, {id}));
    messages = new Map();
    put(conversation.messages.nodes);
    return conversation.eventsCursor;
  }

  function follow(after) {
    if (closed) {
      return;
    }
    unsubscribe = library.subscribe(FOLLOW, {id, after}, {
      next: ({messageAdded: {cursor, ...message}}) => put([message]),
      error(errors) {
        unsubscribe(); // urql may otherwise take the next one for the same subscription
        const changed = errors.find(({extensions}) => extensions?.code === 'HISTORY_CHANGED');
        if (changed) {
          startAgain(changed.extensions.cursor).catch(onEnd);
        } else {
          onEnd(errors); // FORBIDDEN, NOT_FOUND: no longer a member
        }
      },
    });
  }

  async function startAgain(after) {
    await load();
    follow(after); // what was added since the notice comes a second time, and replaces itself
    for (const [idempotencyKey, content] of outbox) {
      await deliver(idempotencyKey, content);
    }
  }

  // The key makes it safe to repeat: a message that the database has is not stored a second time.
  async function deliver(idempotencyKey, content) {
    const input = {conversationId: id, content, idempotencyKey};
    const {sendMessage} = await untilServed(() => library.mutate(SEND, {input}));
    return sendMessage;
  }

  function send(content, idempotencyKey = crypto.randomUUID()) {
    outbox.set(idempotencyKey, content); // before it is sent
    return deliver(idempotencyKey, content);
  }

  function close() {
    closed = true;
    unsubscribe();
  }

  load().then(follow).catch(onEnd);
  return {send, close};
}

// Repeats a request while the server is away, or its database is.
export async function untilServed(request) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 30_000)) {
    try {
      return await request();
    } catch (error) {
      const code = error.errors?.[0]?.extensions?.code;
      if (code !== undefined && code !== 'UNAVAILABLE' && code !== 'RATE_LIMITED') {
        throw error;
      }
      const after = error.errors?.[0]?.extensions?.retryAfterMs ?? Math.random() * wait;
      await new Promise((resolve) => { setTimeout(resolve, after); });
    }
  }
}

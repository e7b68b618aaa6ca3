// Follows a conversation with graphql-sse over a single connection, which all operations share.
import {createClient} from 'graphql-sse';

import {allowed, authorization, follow, reconnects, where} from './follower.js';
import {atEnd, tell} from './script.js';

const client = createClient({
  singleConnection: true,
  url: where,
  headers: authorization,
  retryAttempts: reconnects,
  retry: () => {
    tell('closed');
    return allowed();
  },
  on: {
    connected: () => tell('connected'),
  },
});
follow(client);
atEnd(() => client.dispose());

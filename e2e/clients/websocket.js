// Follows a conversation with graphql-ws.
import {createClient} from 'graphql-ws';
import WebSocket from 'ws';

import {allowed, authorization, follow, reconnects, where} from './follower.js';
import {atEnd, tell} from './script.js';

const client = createClient({
  url: where,
  webSocketImpl: WebSocket,
  connectionParams: authorization,
  retryAttempts: reconnects,
  retryWait: allowed,
  on: {
    connected: () => tell('connected'),
    closed: ({code, reason}) => tell('closed', {code, reason}),
  },
});
follow(client);
atEnd(() => client.dispose());

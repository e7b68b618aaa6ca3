// Follows a conversation with graphql-ws.
import {createClient} from 'graphql-ws';
import WebSocket from 'ws';

import {allowed, authorization, follow, reconnects, where} from './follower.js';
import {atEnd, emit} from './script.js';

const client = createClient({
  url: where,
  webSocketImpl: WebSocket,
  connectionParams: authorization,
  retryAttempts: reconnects,
  retryWait: allowed,
  on: {
    connected: () => emit('connected'),
    closed: ({code, reason}) => emit('closed', {code, reason}),
  },
});
follow(client);
atEnd(() => client.dispose());

// Follows a conversation with graphql-sse. singleConnection makes all operations share one stream.
import {createClient} from 'graphql-sse';

import {allowed, authorization, follow, reconnects, where} from './follower.js';
import {atEnd, emit} from './script.js';

export function followOverSSE({singleConnection}) {
  const client = createClient({
    singleConnection,
    url: where,
    headers: authorization,
    retryAttempts: reconnects,
    retry: () => {
      emit('closed');
      return allowed();
    },
    on: {
      connected: () => emit('connected'),
    },
  });
  follow(client);
  atEnd(() => client.dispose());
}

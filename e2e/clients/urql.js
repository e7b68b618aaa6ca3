// urql on a session of session.js; for React, Vue and Svelte, take Client from their package.
import {Client, cacheExchange, fetchExchange, subscriptionExchange} from '@urql/core';
import {authExchange} from '@urql/exchange-auth';

export function createUrql({url, session}) {
  return new Client({
    url,
    preferGetMethod: false,
    exchanges: [
      cacheExchange,
      authExchange(async ({appendHeaders}) => ({
        addAuthToOperation: (operation) => appendHeaders(operation, session.headers()),
        willAuthError: () => session.isStale(),
        didAuthError: ({graphQLErrors}) => session.isSignedIn()
          && graphQLErrors.some(({extensions}) => extensions.code === 'UNAUTHENTICATED'),
        refreshAuth: () => session.renew(),
      })),
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: (request) => ({
          subscribe: (sink) => ({unsubscribe: session.subscribe(request, sink)}),
        }),
      }),
    ],
  });
}

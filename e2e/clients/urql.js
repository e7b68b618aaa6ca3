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

// What conversation.js and store.js call. They keep what they show themselves, so nothing is read from the cache: it may have
// messages that the server has lost.
export function withUrql(client) {
  const dataOf = ({data, error}) => {
    if (error) {
      throw Object.assign(error, {errors: error.graphQLErrors});
    }
    return data;
  };
  const requestPolicy = 'network-only';
  return {
    query: (query, variables) => client.query(query, variables, {requestPolicy}).toPromise().then(dataOf),
    mutate: (query, variables) => client.mutation(query, variables).toPromise().then(dataOf),
    subscribe(query, variables, {next, error}) {
      const {unsubscribe} = client.subscription(query, variables).subscribe((result) => {
        if (result.error) { // first: the last result's data is still in this one
          error(result.error.networkError ? [result.error.networkError] : result.error.graphQLErrors);
        } else {
          next(result.data);
        }
      });
      return unsubscribe;
    },
  };
}

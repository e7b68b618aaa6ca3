// Apollo Client 4 on a session of session.js.
import {ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql} from '@apollo/client';
import {CombinedGraphQLErrors} from '@apollo/client/errors';
import {SetContextLink} from '@apollo/client/link/context';
import {ErrorLink} from '@apollo/client/link/error';
import {GraphQLWsLink} from '@apollo/client/link/subscriptions';
import {from, switchMap} from 'rxjs';

export function createApollo({url, session}) {
  const authorize = new SetContextLink(async ({headers}) => {
    if (session.isStale()) {
      await session.renew();
    }
    return {headers: {...headers, ...session.headers()}};
  });

  // The token was refused although it looked fresh: the clock is wrong, or the session has ended. Once more, with another.
  const renew = new ErrorLink(({error, operation, forward}) => {
    const refused = CombinedGraphQLErrors.is(error)
      && error.errors.some(({extensions}) => extensions?.code === 'UNAUTHENTICATED');
    if (refused && session.isSignedIn()) {
      return from(session.renew()).pipe(switchMap(() => forward(operation)));
    }
    return undefined;
  });

  return new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.split(
      ({operationType}) => operationType === 'subscription',
      new GraphQLWsLink({subscribe: session.subscribe}),
      ApolloLink.from([renew, authorize, new HttpLink({uri: url})]),
    ),
  });
}

// What conversation.js and store.js call. They keep what they show themselves, so nothing is read from the cache: it may have
// messages that the server has lost.
export function withApollo(client) {
  const fetchPolicy = 'no-cache';
  return {
    query: (query, variables) => client.query({query: gql(query), variables, fetchPolicy}).then(({data}) => data),
    mutate: (query, variables) => client.mutate({mutation: gql(query), variables, fetchPolicy}).then(({data}) => data),
    subscribe(query, variables, {next, error}) {
      // An error of the subscription is a result too, and the last one.
      const subscription = client.subscribe({query: gql(query), variables, fetchPolicy}).subscribe((result) => {
        if (result.error) {
          error(CombinedGraphQLErrors.is(result.error) ? result.error.errors : [result.error]);
        } else {
          next(result.data);
        }
      });
      return () => subscription.unsubscribe();
    },
  };
}

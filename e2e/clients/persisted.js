// Sends documents by their hash, with a client library. Parameters: api; accessToken; client, apollo or urql; trusted, to never
// send the document itself. Each instruction is one operation, and is answered by one event "done" with its result and its
// requests. Before that, each hashed document is an event "document".
import {ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql as parse} from '@apollo/client';
import {CombinedGraphQLErrors} from '@apollo/client/errors';
import {PersistedQueryLink} from '@apollo/client/link/persisted-queries';
import {Client, fetchExchange} from '@urql/core';
import {persistedExchange} from '@urql/exchange-persisted';
import {print} from 'graphql';
import {createHash} from 'node:crypto';

import {atEnd, emit, instruction, params} from './script.js';

let requests = [];

// How a request names its document: "GET hash", "POST hash and query".
function form(url, {method = 'GET', body}) {
  const query = new URL(url).searchParams;
  const sent = method === 'GET' ? {query: query.get('query'), extensions: JSON.parse(query.get('extensions') ?? '{}')} : JSON.parse(body);
  const parts = [sent.extensions?.persistedQuery && 'hash', sent.query && 'query'];
  return `${method} ${parts.filter(Boolean).join(' and ')}`;
}

const observed = async (url, options) => {
  const response = await fetch(url, options);
  requests.push(`${form(url, options)}: ${response.status}`);
  return response;
};

function hash(text) {
  emit('document', {text});
  return createHash('sha256').update(text).digest('hex');
}

const headers = {Authorization: `Bearer ${params.accessToken}`};

const libraries = {
  apollo() {
    const client = new ApolloClient({
      cache: new InMemoryCache(),
      link: ApolloLink.from([
        new PersistedQueryLink({
          generateHash: (document) => hash(print(document)),
          useGETForHashedQueries: true,
          ...(params.trusted && {retry: () => false, disable: () => false}),
        }),
        new HttpLink({uri: params.api, fetch: observed, headers}),
      ]),
    });
    const result = ({data, error}) => ({data, errors: CombinedGraphQLErrors.is(error) ? error.errors : error && [error]});
    return {
      query: async (query, variables) => result(
        await client.query({query: parse(query), variables, fetchPolicy: 'no-cache', errorPolicy: 'all'}),
      ),
      mutate: async (query, variables) => result(await client.mutate({mutation: parse(query), variables, errorPolicy: 'all'})),
    };
  },

  urql() {
    const client = new Client({
      url: params.api,
      preferGetMethod: false,
      fetch: observed,
      fetchOptions: {headers},
      exchanges: [
        persistedExchange({
          generateHash: async (text) => hash(text),
          preferGetForPersistedQueries: true,
          enableForMutation: true,
          enforcePersistedQueries: Boolean(params.trusted),
        }),
        fetchExchange,
      ],
    });
    const result = ({data, error}) => ({data, errors: error && (error.networkError ? [error.networkError] : error.graphQLErrors)});
    return {
      query: async (query, variables) => result(await client.query(query, variables, {requestPolicy: 'network-only'}).toPromise()),
      mutate: async (query, variables) => result(await client.mutation(query, variables).toPromise()),
    };
  },
};

const client = libraries[params.client]();
atEnd(() => process.exit());

for (;;) {
  const {query, variables} = await instruction();
  requests = [];
  const result = await client[query.startsWith('mutation') ? 'mutate' : 'query'](query, variables);
  emit('done', {result, requests});
}

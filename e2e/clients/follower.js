// A person who follows one conversation, as an application would: it remembers the seq of the last message that it has, and
// the tokens. Parameters: api, accessToken, refreshToken, query, conversationId, afterSeq, reconnect.
import {instruction, params, tell} from './script.js';

let {api, accessToken, refreshToken} = params;

export const where = () => api;

// authorization is fresh for each connection, where there is a refresh token.
export async function authorization() {
  if (refreshToken) {
    const response = await fetch(api, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({
        query: `mutation ($token: String!) {
          refreshSession(input: {refreshToken: $token}) { tokens { accessToken refreshToken } userErrors { message } }
        }`,
        variables: {token: refreshToken},
      }),
    });
    const {data} = await response.json();
    ({accessToken, refreshToken} = data.refreshSession.tokens);
    tell('refreshed');
  }
  return accessToken ? {Authorization: `Bearer ${accessToken}`} : {};
}

// Coming back is for the test to allow, because only the test knows where the server is then.
export const reconnects = params.reconnect ? Infinity : 0;
export async function allowed() {
  ({api} = await instruction());
}

export function follow(client) {
  const {query, conversationId, afterSeq} = params;
  // Both libraries send what stands here at that time whenever they subscribe, so that each time begins where the last ended.
  const variables = {conversationId, afterSeq};
  client.subscribe({query, variables}, {
    next(result) {
      if (result.data?.messageAdded) {
        variables.afterSeq = result.data.messageAdded.seq;
      }
      tell('next', {result});
    },
    error(error) {
      if (Array.isArray(error)) {
        tell('error', {errors: error});
      } else {
        tell('failed', {code: error.code, reason: error.reason ?? error.message});
      }
    },
    complete() {
      tell('complete');
    },
  });
}

// Follows one conversation as an application would: it remembers the cursor of the last message, and the tokens. Parameters:
// api, accessToken, refreshToken, query, conversationId, afterSeq, reconnect.
import {emit, instruction, params} from './script.js';

let {api, accessToken, refreshToken} = params;

export const where = () => api;

// With a refresh token, each connection gets a fresh access token.
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
    emit('refreshed');
  }
  return accessToken ? {Authorization: `Bearer ${accessToken}`} : {};
}

// Waits until the test allows to reconnect: only the test knows the address of the server.
export const reconnects = params.reconnect ? Infinity : 0;
export async function allowed() {
  ({api} = await instruction());
}

export function follow(client) {
  const {query, conversationId, afterSeq} = params;
  // Both libraries send these variables whenever they subscribe, so each subscription begins where the last one ended.
  const variables = {conversationId, afterSeq};
  client.subscribe({query, variables}, {
    next(result) {
      if (result.data?.messageAdded?.cursor) {
        variables.after = result.data.messageAdded.cursor;
        delete variables.afterSeq; // only one of the two may be given
      }
      emit('next', {result});
    },
    error(error) {
      if (Array.isArray(error)) {
        emit('error', {errors: error});
      } else {
        emit('failed', {code: error.code, reason: error.reason ?? error.message});
      }
    },
    complete() {
      emit('complete');
    },
  });
}

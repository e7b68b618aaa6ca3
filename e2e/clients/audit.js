// Runs every audit that npm's graphql-http has of a server. Parameters: api.
import {auditServer} from 'graphql-http';

import {emit, params} from './script.js';

const results = await auditServer({url: params.api, fetchFn: fetch});
for (const {id, name, status, reason, response} of results) {
  const answer = response ? `${response.status} ${response.headers.get('content-type')}` : '';
  emit('audit', {id, name, status, reason: reason ?? '', answer});
}
emit('done');

// Follows a conversation with graphql-sse over a single connection.
import {followOverSSE} from './graphql-sse.js';

followOverSSE({singleConnection: true});

// Follows a conversation with graphql-sse over distinct connections.
import {followOverSSE} from './graphql-sse.js';

followOverSSE({singleConnection: false});

// graphql-ws alone, on a session of session.js: all operations over its one socket.

// What conversation.js and store.js call.
export function withGraphQLWS(session) {
  const failed = (errors) => Object.assign(new Error(errors[0].message), {errors});

  async function run(query, variables) {
    const {data, errors} = await session.request({query, variables}).catch((reason) => {
      throw Array.isArray(reason) ? failed(reason) : reason;
    });
    if (errors) {
      throw failed(errors);
    }
    return data;
  }

  return {
    query: run,
    mutate: run,
    subscribe: (query, variables, {next, error}) => session.subscribe({query, variables}, {
      next: (result) => (result.errors ? error(result.errors) : next(result.data)),
      // The errors that end the subscription; or why the socket has closed for good.
      error: (reason) => error(Array.isArray(reason) ? reason : [reason]),
      complete() {},
    }),
  };
}

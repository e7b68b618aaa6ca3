// The pages for the links in mails: they remove the token from the address, and send it when the
// user confirms.
'use strict';

(() => {
  const form = document.querySelector('form');
  const button = form.querySelector('button');
  const status = document.getElementById('status');
  const password = document.getElementById('new-password');
  const passwordError = document.getElementById('new-password-error');
  const showPassword = document.getElementById('show-password');
  const endpoint = new URL(document.querySelector('main').dataset.endpoint, location.href);

  // By the field of the mutation, which is in the form's data-action.
  const ACTIONS = {
    verifyEmail: {
      query: 'mutation($input: VerifyEmailInput!) { verifyEmail(input: $input) { userErrors { code message } } }',
      done: 'Thank you: your e-mail address is confirmed. You can close this page.',
      failed: 'Your e-mail address is not confirmed.',
    },
    resetPassword: {
      query: 'mutation($input: ResetPasswordInput!) { resetPassword(input: $input) { userErrors { code message path } } }',
      done: 'Your password is changed, and all sessions were ended. Sign in with the new password.',
      failed: 'Your password is not changed.',
    },
  };
  const name = form.dataset.action;
  const action = ACTIONS[name];

  // The token

  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  // The token must not stay on the screen, in the history or in a bookmark.
  if (location.hash !== '') {
    history.replaceState(null, '', location.pathname + location.search);
  }
  // A second link that is opened in the same tab changes only the fragment. Browsers do not
  // load the page again then.
  addEventListener('hashchange', () => location.reload());

  // What the page says

  function say(state, text) {
    status.dataset.state = state;
    status.textContent = text;
  }

  // The form is hidden, so the focus moves to the status.
  function end(state, text) {
    form.hidden = true;
    say(state, text);
    status.focus();
  }

  function sayOfPassword(text) {
    passwordError.textContent = text;
    passwordError.hidden = text === '';
    if (text === '') {
      password.removeAttribute('aria-invalid');
    } else {
      password.setAttribute('aria-invalid', 'true');
    }
  }

  // Rounded up, so that the next attempt is not too early.
  function lengthOf(ms) {
    const seconds = Math.ceil(ms / 1000);
    const [number, unit] = seconds < 120 ? [seconds, 'second']
      : seconds < 7200 ? [Math.ceil(seconds / 60), 'minute'] : [Math.ceil(seconds / 3600), 'hour'];
    return `${number} ${unit}${number === 1 ? '' : 's'}`;
  }

  function tooFast(ms) {
    if (!(ms > 0)) {
      return 'Too many attempts. Try again later.';
    }
    // The text has the time of day, because the page has no countdown: a screen reader
    // would read it each second.
    const at = new Date(Date.now() + Math.ceil(ms / 1000) * 1000).toLocaleTimeString([], {timeStyle: 'medium'});
    return `Too many attempts. Try again in ${lengthOf(ms)}, at ${at}.`;
  }

  function sayWhatFailed(error) {
    const {code, retryAfterMs} = error.extensions ?? {};
    const reason = code === 'RATE_LIMITED' ? tooFast(retryAfterMs) : `The server says: ${error.message}`;
    say('error', `${action.failed} ${reason}`);
  }

  // Shows errors that the user can correct: those about the password at its field, the others
  // below the form.
  function sayWhatIsWrong(userErrors) {
    const isOfPassword = ({path}) => password !== null && path?.at(-1) === password.name;
    const text = (list) => list.map(({message}) => message).join(' ');
    const others = userErrors.filter((error) => !isOfPassword(error));
    if (others.some(({code}) => code === 'TOKEN_EXPIRED')) {
      end('error', text(others));
      return;
    }
    say('error', [action.failed, text(others)].join(' ').trim());
    if (others.length < userErrors.length) {
      sayOfPassword(text(userErrors.filter(isOfPassword)));
      password.focus();
    }
  }

  // To the API

  const failure = (message) => ({failure: message});

  async function post(input) {
    let response;
    try {
      response = await fetch(endpoint, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/json',
          Accept: 'application/graphql-response+json, application/json;q=0.9',
        },
        body: JSON.stringify({query: action.query, variables: {input}}),
        // The API must not get the cookies of other applications on this host.
        credentials: 'omit',
        signal: AbortSignal.timeout(30_000),
      });
    } catch {
      // The messages of browsers are technical, and differ between browsers.
      return failure('There was no answer from the server. Look whether you are online, and try again.');
    }
    try {
      return await response.json();
    } catch {
      // The answer of a proxy is not JSON.
      return failure(`The server cannot be used just now (it answered ${response.status}). Try again later.`);
    }
  }

  async function send() {
    const result = await post(password === null ? {token} : {token, newPassword: password.value});
    const userErrors = result?.data?.[name]?.userErrors;
    if (result?.failure) {
      say('error', result.failure);
    } else if (result?.errors?.length > 0) {
      sayWhatFailed(result.errors[0]);
    } else if (!Array.isArray(userErrors)) {
      say('error', 'The server gave an answer that this page does not understand. Try again later.');
    } else if (userErrors.length > 0) {
      sayWhatIsWrong(userErrors);
    } else {
      // Hiding the form is not enough: a browser may store its values.
      form.reset();
      end('success', action.done);
    }
  }

  // The form

  // The property disabled would remove the focus from the button.
  const isBusy = () => button.getAttribute('aria-disabled') === 'true';

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (isBusy()) {
      return;
    }
    if (password !== null) {
      sayOfPassword('');
      // This counts UTF-16 code units, of which there are at least as many as
      // characters. The server counts again.
      if (password.value.length < password.minLength) {
        say('', '');
        sayOfPassword(`A password has at least ${password.minLength} characters.`);
        password.focus();
        return;
      }
    }
    button.setAttribute('aria-disabled', 'true');
    say('busy', 'One moment…');
    await send();
    button.removeAttribute('aria-disabled');
  });

  showPassword?.addEventListener('change', () => {
    password.type = showPassword.checked ? 'text' : 'password';
  });

  if (token) {
    form.hidden = false;
  } else {
    say('error', 'The address of this page has no token, so nothing can be done here. Open the link in the mail again, or '
      + 'copy all of it into the address bar.');
  }
})();

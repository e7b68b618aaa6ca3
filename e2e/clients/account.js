// Drives the pages of mailed links in a browser.
import {does, obey, pages} from './browser.js';

Object.assign(does, {
  async fill(name, {testid, text}) {
    await pages.get(name).fill(`[data-testid="${testid}"]`, text);
  },

  // Waits until the page shows an outcome, and returns it.
  async outcome(name) {
    const status = await pages.get(name).waitForSelector('[data-testid="account-status"]:is([data-state="success"], [data-state="error"])');
    return {state: await status.getAttribute('data-state'), text: await status.textContent()};
  },

  async text(name, {testid}) {
    return pages.get(name).textContent(`[data-testid="${testid}"]:visible`);
  },

  async address(name) {
    return pages.get(name).url();
  },
});
obey();

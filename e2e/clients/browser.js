// Drives a browser. Parameters: executable, the browser. Each instruction names a page and what to do there, and is answered by
// one event "done". Every error in a page is an event "trouble".
import {chromium} from 'playwright-core';

import {atEnd, emit, instruction, params} from './script.js';

const browser = await chromium.launch({
  executablePath: params.executable,
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

export const pages = new Map();

// The instructions for any page. A script adds those for its own pages.
export const does = {
  // Each page is a person of its own: a context shares nothing with another.
  async open(name, {url}) {
    const context = await browser.newContext();
    const page = await context.newPage();
    const trouble = (what) => emit('trouble', {page: name, what});
    const {host} = new URL(url);
    const check = (address) => {
      const {protocol, host: other} = new URL(address);
      if (protocol !== 'data:' && protocol !== 'blob:' && other !== host) {
        trouble(`it asks another host: ${address}`);
      }
    };
    page.on('request', (request) => check(request.url()));
    page.on('websocket', (socket) => check(socket.url()));
    page.on('requestfailed', (request) => trouble(`${request.url()}: ${request.failure()?.errorText}`));
    page.on('pageerror', (error) => trouble(`uncaught: ${error.message}`));
    page.on('console', (message) => {
      if (message.type() === 'error') {
        trouble(`console: ${message.text()}`);
      }
    });
    await page.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', (event) => {
        console.error(`the content security policy forbids ${event.blockedURI} (${event.violatedDirective})`);
      });
    });
    pages.set(name, page);
    await page.goto(url);
  },

  async value(name, {testid}) {
    return pages.get(name).inputValue(`[data-testid="${testid}"]`);
  },

  async click(name, {testid}) {
    await pages.get(name).click(`[data-testid="${testid}"]`);
  },

  // Waits until an element says something.
  async says(name, {testid, text}) {
    await pages.get(name).waitForFunction(
      ([id, wanted]) => document.querySelector(`[data-testid="${id}"]`)?.textContent === wanted, [testid, text],
    );
  },
};

atEnd(() => browser.close());

export async function obey() {
  for (;;) {
    const {page, action, ...rest} = await instruction();
    try {
      emit('done', {value: await does[action](page, rest)});
    } catch (error) {
      emit('failed', {reason: `${page}, ${action}: ${error.message}`});
    }
  }
}

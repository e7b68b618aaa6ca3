// Drives the playground in a browser.
import {does, obey, pages} from './browser.js';

const {open} = does;

Object.assign(does, {
  async open(name, where) {
    await open(name, where);
    await pages.get(name).waitForSelector('main[data-schema="loaded"]');
  },

  // Runs one of the prepared tabs, with other variables if there are any, and returns the first response.
  async run(name, {tab, variables}) {
    const page = pages.get(name);
    await page.click(`#graphiql-session-tab-${tab.index}`);
    await page.waitForFunction(
      (operation) => document.querySelector('.graphiql-query-editor .CodeMirror')?.CodeMirror.getValue().includes(operation),
      tab.operation,
    );
    if (variables) {
      await page.evaluate((text) => {
        document.querySelectorAll('.graphiql-editor-tool .CodeMirror')[0].CodeMirror.setValue(text);
      }, JSON.stringify(variables, null, 2));
    }
    await page.click('button.graphiql-execute-button');
    return does.response(name, {contains: '{'});
  },

  // Opens the documentation, and waits until it contains a text.
  async docs(name, {contains}) {
    const page = pages.get(name);
    await page.click('button[aria-label="Show Documentation Explorer"]');
    await page.waitForFunction(
      (text) => document.querySelector('.graphiql-doc-explorer-content')?.textContent.includes(text), contains,
    );
  },

  // Waits for a response that contains a text.
  async response(name, {contains}) {
    const found = await pages.get(name).waitForFunction((text) => {
      const response = document.querySelector('.result-window .CodeMirror')?.CodeMirror.getValue() ?? '';
      return response.includes(text) && response;
    }, contains);
    return found.jsonValue();
  },
});
obey();

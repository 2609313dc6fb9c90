// node collect_in_browser.mjs CHROMIUM PAGE URL COUNT TOKEN…: the same, in a page of headless Chromium.
import { launch } from "./chromium.mjs";
import { collect } from "./collect.mjs";

const [executablePath, page, url, count, ...tokens] = process.argv.slice(2);
const browser = await launch(executablePath);
try {
  const tab = await browser.newPage();
  await tab.goto(page);
  for (const batch of await tab.evaluate(collect, [url, Number(count), tokens])) console.log(batch);
} finally {
  await browser.close();
}

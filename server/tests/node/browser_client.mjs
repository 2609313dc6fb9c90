// Opens the server's page in headless Chromium and a WebSocket from it:
// node browser_client.mjs CHROMIUM PAGE WS_URL COUNT SCREENSHOT TOKEN…
// Prints the messages that the page's own script received, then a line with the text of the page.
import { launch } from "./chromium.mjs";

const [executablePath, page, url, count, screenshot, ...tokens] = process.argv.slice(2);
const browser = await launch(executablePath);
try {
  const tab = await browser.newPage();
  const problems = [];
  tab.on("pageerror", (error) => problems.push(error.message));
  tab.on("console", (line) => line.type() === "error" && problems.push(line.text()));
  await tab.goto(page);
  const messages = await tab.evaluate(
    ([url, count, tokens]) =>
      new Promise((resolve, reject) => {
        const received = [];
        const socket = new WebSocket(url);
        setTimeout(() => reject(new Error(`only ${received.length} messages`)), 20_000);
        socket.onopen = () =>
          socket.send(JSON.stringify({ type: "subscription", data: { action: "subscribe", tokens } }));
        socket.onmessage = (event) => {
          received.push(event.data);
          if (received.length === count) {
            socket.close();
            resolve({ received, extensions: socket.extensions });
          }
        };
        socket.onerror = () => reject(new Error("the WebSocket failed"));
      }),
    [url, Number(count), tokens],
  );
  for (const message of messages.received) console.log(message);
  await tab.waitForFunction(() => /DOGE/.test(document.body.innerText), null, { timeout: 10_000 });
  await tab.waitForTimeout(500);
  if (screenshot !== "-") await tab.screenshot({ path: screenshot });
  const text = await tab.evaluate(() => document.body.innerText);
  console.log(JSON.stringify({ extensions: messages.extensions, problems, text }));
} finally {
  await browser.close();
}

// Debian's Chromium, headless, controlled by one JSON object per line on stdin: {"open": url,
// "width": px, "dark": bool}, {"ask": "an expression"}, {"ask_frame": "an expression"} for the
// newest frame, {"type": text, "into": selector}, {"click": selector} for a link to another page,
// {"press": selector} for a button, {"resize": px},
// {"shot": path}, {"audit": true} for the violations that axe-core finds, or {"install": true} for
// what keeps Chromium from installing the page as an app. Without a width the page keeps the previous width and colour scheme. The
// response to each is a line {"answer": …} or {"error": "…"}. If a page sends a request to another
// machine, the next response is an error. The optional argument is a host name that resolves to
// this machine.
const readline = require("node:readline");
const puppeteer = require("puppeteer-core");
const axe = require("axe-core");
const own = ["127.0.0.1", ...process.argv.slice(2)];

(async () => {
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    // The browser exits with this program, even if that is killed.
    pipe: true,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
      ...process.argv.slice(2).map(name => `--host-resolver-rules=MAP ${name} 127.0.0.1`)],
  });
  const page = await browser.newPage();
  let outside = null;
  const asks = address => {
    const url = new URL(address);
    if (!["data:", "blob:"].includes(url.protocol) && !own.includes(url.hostname)) outside = url.href;
  };
  page.on("request", request => asks(request.url()));
  const network = await page.createCDPSession();
  network.on("Network.webSocketCreated", socket => asks(socket.url));
  await network.send("Network.enable");
  page.on("pageerror", error => { outside = `the page fails: ${error.message}`; });
  const act = async line => {
    if (line.open) {
      if (line.width) {
        await page.emulateMediaFeatures([
          { name: "prefers-color-scheme", value: line.dark ? "dark" : "light" },
        ]);
        await page.setViewport({ width: line.width, height: 900 });
      }
      await page.goto(line.open, { timeout: 20000 });
    } else if (line.ask) {
      return page.evaluate(line.ask);
    } else if (line.ask_frame) {
      return page.frames().at(-1).evaluate(line.ask_frame);
    } else if (line.click) {
      await Promise.all([page.waitForNavigation({ timeout: 20000 }), page.click(line.click)]);
    } else if (line.resize) {
      await page.setViewport({ width: line.resize, height: 900 });
    } else if (line.press) {
      await page.click(line.press);
    } else if (line.audit) {
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate("axe.run()");
      return violations.flatMap(({ impact, id, nodes }) => nodes.map(({ target, failureSummary }) =>
        `${impact} ${id}: ${target.join(" ")}: ${failureSummary}`));
    } else if (line.install) {
      const { url, errors } = await network.send("Page.getAppManifest");
      const { installabilityErrors } = await network.send("Page.getInstallabilityErrors");
      const icons = await network.send("Page.getManifestIcons");
      return { url, errors, installabilityErrors, icons: Object.keys(icons) };
    } else if (line.type) {
      await page.type(line.into, line.type);
    } else {
      await page.screenshot({ path: line.shot, fullPage: true });
    }
    return null;
  };
  console.log("ready");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      const answer = await act(JSON.parse(line));
      if (outside) throw new Error(outside);
      console.log(JSON.stringify({ answer: answer ?? null }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }
  }
  await browser.close();
})();

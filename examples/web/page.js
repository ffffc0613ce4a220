// Logs a user in and out, and says at once when, why and by which device the session was ended.
//
// The token is in a cookie that no script can read. Latchkey sets it, because browser.origins names this page.

const latchkey = document.querySelector("meta[name=latchkey]").content;
const element = (id) => document.getElementById(id);
const [form, session] = [element("login"), element("session")];

/** An answer with an error, or none: then the status is 0, and the reason is UNREACHABLE. */
class CallError extends Error {
  constructor(status, { message, reason, metadata = {}, retryAfter = 0 }) {
    super(message);
    Object.assign(this, { status, reason, metadata, retryAfter });
  }

  /** Whether the same call can succeed later. */
  get isTemporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** Calls a method with a message and returns the answer. */
async function call(path, request = {}) {
  let response;
  try {
    response = await fetch(latchkey + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      // Sends and stores the cookie, although Latchkey may have another origin than the page.
      credentials: "include",
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    // The browser does not say whether the network failed or the server does not allow this page.
    throw new CallError(0, { message: "there is no answer", reason: "UNREACHABLE" });
  }
  // A proxy may answer with something else than JSON.
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) {
    return answer;
  }
  const info = answer?.details?.find(({ type }) => type === "google.rpc.ErrorInfo")?.debug;
  const message = answer?.message ?? `the answer has the status ${response.status}`;
  const retryAfter = Number(response.headers.get("retry-after"));
  throw new CallError(response.status, { message, ...info, retryAfter });
}

let watch = null;
let retry = null;
let failures = 0;
/** Counts what the page has begun, so that an answer that comes too late is ignored. */
let turn = 0;

/** Ends the watch, and whatever the page was waiting for. */
function stop() {
  turn += 1;
  clearTimeout(retry);
  watch?.close();
  watch = null;
}

/**
 * Asks whether the cookie has a live session. Shows it, or why there is none, which may be known from the watch.
 *
 * Another tab of this browser may have logged in meanwhile: then the cookie has a new session.
 */
async function refresh({ peek = true, rejection } = {}) {
  stop();
  const mine = turn;
  let verdict;
  try {
    verdict = await call("/v1/validate", { peek });
  } catch (error) {
    if (mine !== turn) {
      return;
    }
    // A request without a token is invalid: there is no cookie.
    if (rejection || error.reason === "INVALID_REQUEST") {
      showLogin(rejection);
    } else {
      showOutage(error);
    }
    return;
  }
  if (mine !== turn) {
    return;
  }
  if (verdict.session) {
    showSession(verdict.session);
    openWatch();
  } else {
    showLogin(verdict.rejection);
  }
}

/** Waits for the end of the session. */
function openWatch() {
  watch = new EventSource(`${latchkey}/v1/watch`, { withCredentials: true });
  watch.addEventListener("session", (event) => {
    failures = 0;
    showConnection("");
    showSession(JSON.parse(event.data));
  });
  watch.addEventListener("rejection", (event) => refresh({ rejection: JSON.parse(event.data) }));
  // EventSource shows no status, and reconnects after some errors only. So the page asks for the verdict instead.
  watch.addEventListener("error", () => showOutage());
}

/** Says that there is no connection, and tries again later. */
function showOutage(error) {
  stop();
  if (error && !error.isTemporary) {
    showConnection(`Latchkey does not answer this page: ${error.message}.`);
    return;
  }
  showConnection("Latchkey cannot be reached. The page tries again.");
  const seconds = Math.max(error?.retryAfter ?? 0, Math.min(2 ** failures, 30));
  failures += 1;
  // Pages that lost the same server come back one by one.
  retry = setTimeout(refresh, seconds * (1 + Math.random() / 2) * 1000);
}

function showConnection(text) {
  element("connection").textContent = text;
}

/** Shows one part of the page, and moves the focus there if it was in the other one. */
function show(part, other, focus) {
  const hadFocus = other.contains(document.activeElement);
  other.hidden = true;
  part.hidden = false;
  if (hadFocus) {
    focus.focus();
  }
}

function showSession({ username, device, issuedAt, idleExpiresAt, expiresAt }) {
  element("user").textContent = `Logged in as ${username}`;
  element("device").textContent = device;
  element("issued").textContent = time(issuedAt);
  element("idle").textContent = time(idleExpiresAt);
  element("expires").textContent = time(expiresAt);
  if (session.hidden) {
    element("notice").textContent = "";
    form.reset();
    showError("");
    show(session, form, element("user"));
  }
}

/** Shows the form, and why a session has ended. The page never logs in again by itself: the user decides. */
function showLogin(rejection) {
  failures = 0;
  showConnection("");
  element("notice").textContent = rejection ? explain(rejection) : "";
  show(form, session, element("username"));
}

function explain({ reason, at, byDevice, message }) {
  switch (reason) {
    case "REJECTION_REASON_REPLACED":
    case "REJECTION_REASON_EVICTED":
      return `You were logged out by ${byDevice || "another device"} at ${time(at)}.`;
    case "REJECTION_REASON_LOGGED_OUT":
      return "You have logged out.";
    default:
      return message;
  }
}

/** Returns the time of day, with the date if it is not today. */
function time(timestamp) {
  const date = new Date(timestamp);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], { timeStyle: "short", ...(!isToday && { dateStyle: "medium" }) });
}

function duration(seconds) {
  const [number, unit] = seconds < 120 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

/** Returns the name of this device that the user sees on another one, such as "Firefox on Linux". */
function deviceName() {
  const first = (names) => names.find(([pattern]) => pattern.test(navigator.userAgent))?.[1];
  const browser = first([
    [/Edg/, "Edge"],
    [/OPR\//, "Opera"],
    [/SamsungBrowser/, "Samsung Internet"],
    [/Firefox|FxiOS/, "Firefox"],
    [/Chrome|CriOS/, "Chrome"],
    [/Safari/, "Safari"],
  ]);
  const system = first([
    [/Android/, "Android"],
    [/iPhone/, "iPhone"],
    [/iPad/, "iPad"],
    [/CrOS/, "ChromeOS"],
    [/Windows/, "Windows"],
    [/Mac OS X/, "macOS"],
    [/Linux/, "Linux"],
  ]);
  return `${browser ?? "A browser"}${system ? ` on ${system}` : ""}`;
}

let waiting = null;

function showError(text, { canTakeOver = false, retryAfter = 0 } = {}) {
  clearTimeout(waiting);
  element("error").textContent = text;
  element("takeover").hidden = !canTakeOver;
  if (retryAfter > 0) {
    waiting = setTimeout(() => showError("You can try again now."), retryAfter * 1000);
  }
}

function showLoginError({ reason, message, metadata, retryAfter }) {
  const wait = duration(retryAfter);
  switch (reason) {
    case "INVALID_CREDENTIALS":
      element("password").focus();
      element("password").select();
      return showError("The username or the password is wrong.");
    case "THROTTLED":
      return showError(`There were too many attempts. Try again in ${wait}.`, { retryAfter });
    case "OVERLOADED":
      return showError(`The server is busy. Try again in ${wait}.`, { retryAfter });
    case "SESSION_LIMIT":
      return showError(`You are logged in on ${metadata.device || "another device"}.`, { canTakeOver: true });
    case "ACCOUNT_DISABLED":
      return showError("This account is disabled.");
    case "UNREACHABLE":
      return showError("Latchkey cannot be reached. Check your connection and try again.");
    case "STORE_UNAVAILABLE":
      return showError("You could not be logged in at the moment. Try again later.");
    default:
      return showError(`You could not be logged in: ${message}.`);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.ariaBusy === "true") {
    return;
  }
  form.ariaBusy = "true";
  const takeover = event.submitter === element("takeover");
  const [username, password] = [element("username").value, element("password").value];
  try {
    const answer = await call("/v1/login", { username, password, device: deviceName(), takeover });
    stop();
    showSession(answer.session);
    element("notice").textContent = answer.displaced
      .map(({ device }) => `This login has ended your session on ${device || "another device"}.`)
      .join(" ");
    openWatch();
  } catch (error) {
    showLoginError(error);
  } finally {
    form.ariaBusy = "false";
  }
});

element("logout").addEventListener("click", async () => {
  try {
    // A stale session logs nobody out: the answer then says what has ended it.
    const { rejection } = await call("/v1/logout");
    stop();
    showLogin(rejection ?? { reason: "REJECTION_REASON_LOGGED_OUT" });
  } catch (error) {
    element("notice").textContent = `You are still logged in: ${error.message}. Try again.`;
  }
});

// A page in the background may have been suspended, or another tab may have logged in.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && watch?.readyState !== EventSource.OPEN) {
    refresh();
  }
});
addEventListener("online", () => refresh());
refresh({ peek: false });

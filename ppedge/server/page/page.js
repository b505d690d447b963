// The page of `ppedge serve`. It asks its own server, and nothing and nobody else.

const at = (id) => document.getElementById(id);
const KEY = "ppedge token";
const PAGE = 20;
const FRAME = 30;  // milliseconds

const talk = { messages: [], model: "", stop: null };
const search = { text: "", offset: 0 };
let persona = "";

// --- asking the server ---

function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
  // Out of the address bar and the history, where others might read it.
  history.replaceState(null, "", location.pathname);
}

async function ask(path, body, signal) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  const options = { headers, signal };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.method = "POST";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `ppedge serve` still running?");
  }
  if (response.ok) return response;
  if (response.status === 401 && !at("enter").open) at("enter").showModal();
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `The server answered ${response.status}.`);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The server ended in the middle of the answer.");
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// --- telling the person ---

const say = (line) => { at("status").textContent = line; };

function trouble(error) {
  at("trouble").textContent = error ? error.message : "";
  at("trouble").hidden = !error;
}

async function tried(work) {
  try {
    trouble(null);
    await work();
  } catch (error) {
    trouble(error);
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- the conversation ---

function addTurn(role) {
  const turn = element("li", role);
  turn.append(element("span", "who", role === "user" ? "You" : at("persona").selectedOptions[0].text));
  const text = document.createTextNode("");
  turn.appendChild(element("span", "text")).append(text);
  const log = at("log");
  log.append(turn);
  let waiting = "";
  let timer = null;
  const show = () => {
    clearTimeout(timer);
    timer = null;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    text.appendData(waiting);
    waiting = "";
    if (follows) log.scrollTop = log.scrollHeight;
  };
  // The page is laid out anew for what is shown: once a frame, however fast the pieces come.
  const write = (more) => {
    waiting += more;
    timer ??= setTimeout(show, FRAME);
  };
  return { turn, write, show };
}

function newConversation() {
  talk.stop?.abort();
  talk.messages = [];
  at("log").replaceChildren();
  at("why").replaceChildren();
  at("why-said").textContent = "Ask something, and the notes that shape the answer are listed here.";
  trouble(null);
}

async function send() {
  const prompt = at("prompt").value;
  if (talk.stop || !prompt.trim()) return;
  const messages = talk.messages;
  const strength = Number(at("strength").value);
  messages.push({ role: "user", content: prompt });
  at("prompt").value = "";
  const asked = addTurn("user");
  asked.write(prompt);
  asked.show();
  const { turn, write, show } = addTurn("assistant");
  talk.stop = new AbortController();
  at("prompt").focus();  // A button that is disabled would lose it.
  at("send").disabled = true;
  at("stop").disabled = false;
  say("Writing");
  let answer = "";
  try {
    const body = { model: at("persona").value, messages, strength, stream: true };
    for await (const event of events(await ask("v1/chat/completions", body, talk.stop.signal))) {
      const piece = event.choices[0]?.delta.content ?? "";
      answer += piece;
      write(piece);
    }
    say(`Answer: ${answer}`);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped");
    else trouble(error);
  } finally {
    show();
    talk.stop = null;
    at("send").disabled = false;
    at("stop").disabled = true;
  }
  if (!answer.trim()) {
    // What was not answered is no part of what is said next, and can be sent again.
    messages.pop();
    turn.remove();
    asked.turn.remove();
    at("prompt").value ||= prompt;
    return;
  }
  messages.push({ role: "assistant", content: answer });
  // A conversation that was ended meanwhile has nothing to explain.
  if (messages === talk.messages) await tried(() => explain(prompt, strength));
}

// --- notes ---

function noteItem(note) {
  const item = element("li");
  item.dataset.name = note.name;
  if (note.input) item.append(element("p", "about", note.input));
  item.append(element("p", note.text.length > 400 ? "long" : "", note.text));
  const row = item.appendChild(element("div", "row"));
  const about = row.appendChild(element("span", "about", note.name));
  if (note.mark) about.append(`, ${note.mark}`);
  return { item, row, about };
}

async function explain(prompt, strength) {
  const list = at("why");
  list.replaceChildren();
  if (!persona || strength === 0) {
    at("why-said").textContent = "No note bears on this answer: it is the bare model's.";
    return;
  }
  const found = await (await ask("why", { model: at("persona").value, prompt })).json();
  at("why-said").textContent = whyLine(found);
  const turns = new Set(found.turns.map((note) => note.name));
  const others = found.bears.attention ? found.heaviest.filter((note) => !turns.has(note.name)) : [];
  const notes = [...found.turns, ...others];
  const most = Math.max(...notes.map((note) => note.weight ?? 0), 0.001);
  for (const note of notes) {
    const { item, about } = noteItem(note);
    about.append(turns.has(note.name) ? " · turn" : " · attention");
    if (note.weight !== null) {
      const meter = element("meter");
      meter.max = most;
      meter.value = note.weight;
      const share = `${(100 * note.weight).toFixed(1)} %`;
      meter.setAttribute("aria-label", `weight ${share}`);
      about.append(" · ", share, " ", meter);
    }
    list.append(item);
  }
}

function whyLine(found) {
  const parts = [];
  parts.push(found.turns.length
    ? `${found.turns.length} of ${found.notes} notes stood before the prompt as earlier turns.`
    : "No note stood before the prompt.");
  if (found.null_weight === null) parts.push("Without a plug they have no weights.");
  else {
    parts.push("The weights are the plug's attention over all notes.");
    if (found.bears.attention) parts.push("The heaviest count also where they are no turns.");
  }
  if (found.manner_notes) parts.push(`How all are written counts too (${found.manner_notes} looked at).`);
  return parts.join(" ");
}

async function find(offset) {
  if (!persona) {
    at("found").replaceChildren();
    at("more").hidden = true;
    at("found-said").textContent = "The bare model has no notes.";
    return;
  }
  const query = new URLSearchParams({ text: search.text, limit: PAGE, offset });
  const path = `personas/${encodeURIComponent(persona)}/notes?${query}`;
  const found = await (await ask(path)).json();
  if (offset === 0) at("found").replaceChildren();
  for (const note of found.notes) {
    const { item, row } = noteItem(note);
    const forget = row.appendChild(element("button", "", "Forget…"));
    forget.type = "button";
    forget.setAttribute("aria-label", `Forget note ${note.name}…`);
    forget.addEventListener("click", () => confirmForget(note));
    at("found").append(item);
  }
  search.offset = offset + found.notes.length;
  at("more").hidden = !found.more;
  const line = `${search.offset} shown${found.more ? ", and there are more" : ""}; ${found.total} in all`;
  at("found-said").textContent = line;
  say(line);
}

function confirmForget(note) {
  at("forget-text").textContent = note.text;
  at("erase").onclick = () => tried(() => erase(note)).finally(() => at("forget").close());
  at("forget").showModal();
}

async function erase(note) {
  const path = `personas/${encodeURIComponent(persona)}/forget`;
  const receipt = await (await ask(path, { ids: [note.name] })).json();
  for (const item of document.querySelectorAll(".notes li")) {
    if (item.dataset.name === note.name) item.remove();
  }
  search.offset -= 1;
  const line = `Forgotten. ${receipt.notes} notes are left.`;
  at("found-said").textContent = line;
  say(line);
  at("forget").close();
  // The button that opened the dialog is gone.
  at("wanted").focus();
}

// --- the start ---

async function start() {
  const { personas } = await (await ask("personas")).json();
  const options = personas.map((each) => new Option(each.name, each.model));
  options.push(new Option("nobody (bare model)", "ppedge"));
  at("persona").replaceChildren(...options);
  // The one that `ppedge notes` keeps where no other was named.
  if (personas.some((each) => each.name === "default")) at("persona").value = "ppedge:default";
  await choose();
}

async function choose() {
  const model = at("persona").value;
  persona = model.includes(":") ? model.slice(model.indexOf(":") + 1) : "";
  newConversation();
  search.text = at("wanted").value = "";
  await find(0);
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("prompt").addEventListener("keydown", (event) => {
  // While a word is being composed, Enter chooses it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") talk.stop?.abort();
});
at("stop").addEventListener("click", () => { talk.stop?.abort(); at("prompt").focus(); });
at("again").addEventListener("click", () => { newConversation(); at("prompt").focus(); });
at("persona").addEventListener("change", () => tried(choose));
at("strength").addEventListener("input", () => {
  at("strength-shown").textContent = Number(at("strength").value).toFixed(1);
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search.text = at("wanted").value;
  tried(() => find(0));
});
at("more").addEventListener("click", () => tried(() => find(search.offset)));
at("keep").addEventListener("click", () => at("forget").close());
at("enter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("token").value.trim());
  at("token").value = "";
  at("enter").close();
  tried(start);
});
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) { takeToken(); tried(start); }
});

takeToken();
tried(start);
at("prompt").focus();

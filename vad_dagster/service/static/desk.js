// What all pages share. The service has escaped every text that it puts into a page; scripts set textContent only, and
// innerHTML only with parts of pages that the service made.

const texts = () => JSON.parse(document.getElementById("texts").textContent);

/** Send JSON and return the answer; null where it was refused or did not come, and then `said` shows why. */
async function sent(address, body, said) {
  said.textContent = "";
  try {
    const headers = { "Content-Type": "application/json" };
    const reply = await fetch(address, { method: "POST", headers, body: JSON.stringify(body) });
    const told = await reply.json();
    if (reply.ok) return told;
    said.textContent = typeof told.detail === "string" ? told.detail : told.detail.map((one) => one.msg).join(" ");
  } catch (error) { said.textContent = texts().away.replace("{reason}", error.message); }
  return null;
}
const send = async (address, body, said) => (await sent(address, body, said)) !== null;

/** The name under which something is written down; empty where nobody has said one. */
const personName = () => document.getElementById("person")?.value.trim() || "";

/** Fetch a part of the page anew until nothing in it waits; returns what starts that again. */
function follow(part) {
  const waits = () => part.querySelector("[data-waiting='1']");
  let pause = 700, again = null, shown = null;
  async function fetchPart() {
    again = null;
    try {
      const reply = await fetch(part.dataset.part);
      const text = reply.ok ? await reply.text() : shown;
      if (text !== shown) part.innerHTML = shown = text;  // else a screen reader would begin anew
    } catch { /* the service is away: the next look may find it */ }
    pause = Math.min(5000, pause * 1.3);
    if (waits()) again = setTimeout(fetchPart, pause);
  }
  if (waits()) again = setTimeout(fetchPart, pause);
  return () => { clearTimeout(again); pause = 700; return fetchPart(); };
}

document.addEventListener("DOMContentLoaded", () => {
  const person = document.getElementById("person");
  if (person) {
    person.value = localStorage.getItem("vad-person") || person.dataset.login;
    person.addEventListener("change", () => localStorage.setItem("vad-person", person.value));
  }
  document.getElementById("language").addEventListener("change", (event) => {
    document.cookie = `vad-language=${event.target.value}; path=/; max-age=31536000; samesite=lax`;
    location.reload();
  });
  const button = document.getElementById("theme"), root = document.documentElement;
  const name = () => { button.ariaLabel = `${button.title}: ${texts()[root.dataset.theme || "auto"]}`; };
  button.addEventListener("click", () => {
    root.dataset.theme = { "": "light", light: "dark", dark: "" }[root.dataset.theme];
    localStorage.setItem("vad-theme", root.dataset.theme);
    name();
  });
  name();
});

// The gallery: a choice takes effect at once, and an image can be sent.
document.addEventListener("DOMContentLoaded", () => {
  const filters = document.querySelector(".filters");
  function show() {
    const fields = new FormData(filters);
    for (const [name, value] of [...fields]) if (!value || (name === "order" && value === "newest")) fields.delete(name);
    const query = new URLSearchParams(fields).toString();
    location.assign(location.pathname + (query ? `?${query}` : ""));
  }
  filters.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  filters.addEventListener("change", (event) => {
    if (!["datetime-local", "search"].includes(event.target.type)) show();  // these are typed, and sent by Enter
  });
  document.getElementById("inspect")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, said = form.querySelector(".said");
    said.textContent = form.dataset.busy;
    try {
      const reply = await fetch(`${form.dataset.address}/images`, { method: "POST", body: form.elements.image.files[0] });
      const told = await reply.json();
      if (reply.status === 200) location.assign(`${form.dataset.address}/results/${told.prediction_id}`);
      else said.textContent = told.detail || form.dataset.later;
    } catch (error) { said.textContent = texts().away.replace("{reason}", error.message); }
  });
});

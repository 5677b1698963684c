// A decision is sent with its reason; the page then shows what is in force.
document.querySelectorAll("form.decide").forEach((form) => form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  const body = { reason: form.elements.reason.value, person: personName() };
  if (await send(form.getAttribute("action"), body, form.querySelector(".said"))) location.reload();
  else button.disabled = false;
}));

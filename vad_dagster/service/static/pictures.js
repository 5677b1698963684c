// A picture that could not be drawn at once comes a little later: the service draws one at a time.
const TRIES = 5;
document.addEventListener("error", (event) => {
  const picture = event.target;
  if (!(picture instanceof HTMLImageElement) || !picture.closest(".tile")) return;
  const tries = Number(picture.dataset.tries || 0);
  if (tries >= TRIES) return;
  picture.dataset.tries = tries + 1;
  setTimeout(() => { const address = picture.src; picture.src = ""; picture.src = address; }, 2000 * (tries + 1));
}, true);

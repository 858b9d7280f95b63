// Search by a photo that is picked, pasted or dropped; offered where the API has /search/image.

import { byId } from "./dom.js";

/** Wire the page for photos; `search(file)` is called with each. */
export function takePhotos(search) {
  const [button, picker, veil] = [byId("by-photo"), byId("photo-file"), byId("drop")];
  button.hidden = false;
  button.addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    if (picker.files[0]) search(picker.files[0]);
    picker.value = "";
  });
  document.addEventListener("paste", (event) => take(event.clipboardData, event));
  document.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.items].some((item) => item.kind === "file")) return;
    event.preventDefault();
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) veil.hidden = true; });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    take(event.dataTransfer, event);
  });

  function take(data, event) {
    const file = [...(data?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    search(file);
  }
}

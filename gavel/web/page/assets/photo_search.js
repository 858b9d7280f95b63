// Search by a photo that is picked, pasted or dropped; offered where the API has /search/image.

import { Problem } from "./api.js";
import { byId } from "./dom.js";

const MOST_SIDE = 1024; // pixels; the models behind the search see no more than a few hundred
const MOST_BYTES = 900_000; // below the megabyte that the API takes
const TRIES = [[1, 0.85], [1, 0.6], [0.5, 0.6], [0.25, 0.5]]; // share of the side, quality of the JPEG

/** A photo to search by: drawn anew in the browser, so that it is small and where it was taken stays here. */
export class Photo {
  constructor(blob) {
    this.id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.blob = blob;
    this.url = URL.createObjectURL(blob);
  }

  /** Read a file of any kind that this browser can show. */
  static async from(file) {
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      throw new Problem({ type: "invalid_photo", title: "", detail: `Your browser cannot read ${file.name || "this"} as a picture.` });
    }
    try {
      for (const [share, quality] of TRIES) {
        const blob = await drawn(picture, MOST_SIDE * share, quality);
        if (blob.size <= MOST_BYTES) return new Photo(blob);
      }
    } finally {
      picture.close();
    }
    throw new Problem({ type: "invalid_photo", title: "", detail: "The photo stays too large however it is scaled down." });
  }
}

/** A JPEG of a picture, on white, no side of it longer than `side`. */
function drawn(picture, side, quality) {
  const scale = Math.min(1, side / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", quality));
}

/** Wire the page for photos; `search(file)` is called with each, `remove()` when the one that is shown is to go. */
export function takePhotos({ search, remove }) {
  const [button, picker, veil] = [byId("by-photo"), byId("photo-file"), byId("drop")];
  button.hidden = false;
  button.addEventListener("click", () => picker.click());
  byId("remove-photo").addEventListener("click", () => {
    remove();
    byId("q").focus();
  });
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

/** Show the photo that is searched by beside the words, or nothing. */
export function showPhoto(photo) {
  const [chip, picture, box] = [byId("photo-chip"), byId("photo-thumb"), byId("q")];
  chip.hidden = !photo;
  if (photo) picture.src = photo.url;
  else picture.removeAttribute("src");
  box.placeholder = photo ? "What about it? A word, a colour, a brand…" : box.dataset.placeholder;
}

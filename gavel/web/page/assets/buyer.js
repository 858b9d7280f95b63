// The buyer of this tab: a random number that lives as long as the tab, or until it is to be forgotten.

const ID = "gavel-session", OPENED = "gavel-opened";

/** Under what the tab's events are told and its history is kept. */
export function buyerId() {
  const known = sessionStorage.getItem(ID) ?? randomId();
  sessionStorage.setItem(ID, known);
  return known;
}

/** Whether a lot was opened under the number, so that there is a history to look for. */
export const hasOpened = () => sessionStorage.getItem(OPENED) !== null;
export const noteOpened = () => sessionStorage.setItem(OPENED, "1");

/** Have the API forget the number, then forget it here; the next event has another one. */
export async function forgetBuyer(api) {
  await api.forget(buyerId());
  for (const key of [ID, OPENED]) sessionStorage.removeItem(key);
}

/** 128 random bits; crypto.randomUUID is missing where the page comes over plain HTTP from another machine. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

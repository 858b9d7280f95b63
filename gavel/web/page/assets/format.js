// Numbers and times as people read them.

const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;
const SOON_S = HOUR_S;

/** A price in the shop's currency, or a bare number; the empty text when it is unknown. */
export function price(value, currency) {
  if (typeof value !== "number") return "";
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return new Intl.NumberFormat(undefined, currency ? { style: "currency", currency } : digits).format(value);
}

export const count = (value) => new Intl.NumberFormat().format(value);
export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const bids = (value) => (value === 1 ? "1 bid" : value ? `${count(value)} bids` : "No bids yet");

/** The time that is left: {text, state}, state one of open, soon, ended. */
export function timeLeft(endsAt, now = Date.now()) {
  const seconds = Math.floor((endsAt - now) / 1000);
  if (seconds <= 0) return { text: "Ended", state: "ended" };
  const [days, hours] = [Math.floor(seconds / DAY_S), Math.floor((seconds % DAY_S) / HOUR_S)];
  const [minutes, rest] = [Math.floor((seconds % HOUR_S) / 60), seconds % 60];
  if (days) return { text: `${days} d ${hours} h left`, state: "open" };
  if (hours) return { text: `${hours} h ${minutes} min left`, state: "open" };
  return { text: `${minutes}:${String(rest).padStart(2, "0")} left`, state: seconds <= SOON_S ? "soon" : "open" };
}

/** A field of the API in words: seller_rating -> Seller rating. */
export function label(name) {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

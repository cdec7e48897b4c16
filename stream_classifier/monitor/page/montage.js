// Which traces are shown: each channel as it comes, against the average, or along chains.

const OLD = { T3: "T7", T4: "T8", T5: "P7", T6: "P8" };
const CHAINS = [
  ["FP1", "F7", "T7", "P7", "O1"],
  ["FP1", "F3", "C3", "P3", "O1"],
  ["FZ", "CZ", "PZ"],
  ["FP2", "F4", "C4", "P4", "O2"],
  ["FP2", "F8", "T8", "P8", "O2"],
];
const SITES = new Set(CHAINS.flat());

function site(label) {
  for (const word of label.toUpperCase().match(/[A-Z0-9]+/g) ?? []) {
    const name = OLD[word] ?? word;
    if (SITES.has(name)) return name;
  }
  return null;
}

/** Traces of a montage: {label, plus, minus}; plus and minus are channels, minus may be "average". */
export function traces(kind, labels) {
  if (kind === "average") {
    return labels.map((label, i) => ({ label: `${label}-Av`, plus: i, minus: "average" }));
  }
  if (kind === "bipolar") {
    const at = new Map(labels.map((label, i) => [site(label), i]));
    return CHAINS.flatMap((chain) => {
      const there = chain.filter((name) => at.has(name)).map((name) => at.get(name));
      return there.slice(1).map((minus, i) => ({
        label: `${labels[there[i]]}-${labels[minus]}`,
        plus: there[i],
        minus,
      }));
    });
  }
  return labels.map((label, i) => ({ label, plus: i, minus: null }));
}

/** The montages that these labels allow, by name. */
export function montages(labels) {
  const found = { referential: "Referential" };
  if (labels.length > 2) found.average = "Average";
  if (traces("bipolar", labels).length) found.bipolar = "Bipolar";
  return found;
}

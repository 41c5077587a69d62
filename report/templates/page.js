"use strict";
// What the page does besides being read: light or dark, and every table as text to paste elsewhere.

// A file that is opened from disk may have no storage: then the choice lasts as long as the page.
const themes = ["auto", "light", "dark"];
const themeButton = document.createElement("button");
function setTheme(name) {
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", name);
  themeButton.textContent = "theme: " + name;
  themeButton.value = name;
  try { localStorage.setItem("theme", name); } catch { /* no storage */ }
}
let stored = "auto";
try { stored = localStorage.getItem("theme") || "auto"; } catch { /* no storage */ }
themeButton.id = "theme";
themeButton.type = "button";
themeButton.addEventListener("click", () =>
  setTheme(themes[(themes.indexOf(themeButton.value) + 1) % themes.length]));
setTheme(themes.includes(stored) ? stored : "auto");
document.body.prepend(themeButton);

// The cells of a table as text, without the columns that are drawn.
function cellsOf(table) {
  const drawn = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("drawn"));
  return [...table.rows].map((row) => [...row.cells].filter((_, column) => !drawn[column])
    .map((cell) => cell.textContent.replace(/\s+/g, " ").trim()));
}

// A spreadsheet takes a cell that begins with one of these signs for a formula, and would run it.
function csvCell(text) {
  const number = text.replace(/^\u2212/, "-").replace(/(\d),(?=\d{3})/g, "$1");
  if (/^[+-]?\d+(\.\d+)?%?$/.test(number)) return number;
  const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
}

function csv(table) {
  return cellsOf(table).map((row) => row.map(csvCell).join(",") + "\n").join("");
}

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
  "|": "\\textbar{}", "\u2212": "$-$", "\u2013": "--", "\u2014": "---", "\u2026": "\\ldots{}", "\u00a0": "~",
};
function latexCell(text) {
  return text.replace(/[\\{}&%$#_~^<>|\u2212\u2013\u2014\u2026\u00a0]/g, (sign) => LATEX[sign]);
}

function latex(table) {
  const rows = cellsOf(table).map((row) => "  " + row.map(latexCell).join(" & ") + " \\\\\n");
  const sides = [...table.tHead.rows[0].cells].filter((cell) => !cell.classList.contains("drawn"))
    .map((cell) => (cell.classList.contains("n") ? "r" : cell.classList.contains("text") ? "p{7cm}" : "l")).join("");
  return "\\begin{tabular}{" + sides + "}\n  \\hline\n" + rows[0] + "  \\hline\n" + rows.slice(1).join("") +
    "  \\hline\n\\end{tabular}\n";
}

// The clipboard may be denied to a page from disk: then the older way, and at last a field to copy from by hand.
async function copy(text, button) {
  const label = button.textContent;
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.readOnly = true;
    field.setAttribute("aria-label", "the table, to copy by hand");
    button.parentNode.querySelector("textarea")?.remove();
    button.parentNode.append(field);
    field.select();
    try { done = document.execCommand("copy"); } catch { /* not allowed either */ }
    if (done) field.remove();
  }
  button.textContent = done ? "copied" : "press Ctrl+C";
  setTimeout(() => { button.textContent = label; }, 1500);
}

for (const table of document.querySelectorAll("table")) {
  const tools = document.createElement("div");
  tools.className = "tools";
  for (const [name, write] of [["CSV", csv], ["LaTeX", latex]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "copy as " + name;
    button.addEventListener("click", () => copy(write(table), button));
    tools.append(button);
  }
  table.closest(".scroll").after(tools);
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

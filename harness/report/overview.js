/* The overview: its grid is searched, and the story that the address names is told in its place. */
{
const $ = (id) => document.getElementById(id);
const { stories, links } = JSON.parse($("bundle").textContent);
const told = Object.keys(stories).map(Number);
const title = document.title;
let open = null, wanted = null, drawing = null;

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function follow() {
  const name = /^#run-(\d+)$/.exec(location.hash);
  const number = name && name[1] in stories ? Number(name[1]) : null;
  if (number === null && location.hash.length > 1 && open !== null) return;  // a place in the story
  if (number === wanted) return;
  wanted = number;
  if (number === null) { close(); return; }
  const story = await unpack(stories[number]);
  if (wanted === number) tell(number, story);
}

function tell(number, story) {
  drawing?.abort();
  drawing = new AbortController();
  open = number;
  $("all").hidden = true;
  $("one").hidden = false;
  $("one").replaceChildren($("told").content.cloneNode(true));
  drawRun(story, drawing.signal);
  const place = told.indexOf(number);
  for (const [id, other] of [["before", told[place - 1]], ["after", told[place + 1]]]) {
    if (other === undefined) $(id).remove(); else $(id).href = `#run-${other}`;
  }
  if (story.brief) {
    const whole = document.createElement("a");
    whole.href = links[number];
    whole.textContent = "its own page";
    $("brief").append(`In brief, since ${story.brief}: its events and texts are on `, whole, ".");
    $("brief").hidden = false;
  }
  document.title = `${story.record.verdict}: ${story.record.name}`;
  document.documentElement.dataset.open = number;
  scrollTo({ top: 0, behavior: "instant" });
  $("back").focus();
}

function close() {
  const left = open;
  drawing?.abort();
  open = drawing = null;
  $("one").replaceChildren();
  $("one").hidden = true;
  $("all").hidden = false;
  document.title = title;
  delete document.documentElement.dataset.open;
  if (left !== null) document.querySelector(`.grid a[href="#run-${left}"]`)?.focus();
}

addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && open !== null && !event.defaultPrevented) location.hash = "";
});

/* ---- the grid ---- */

const rows = [...document.querySelectorAll(".grid tbody tr:not(.group)")];
function search() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const group = row.parentElement.querySelector(".group");
    const text = `${group ? group.textContent : ""} ${row.textContent}`.toLowerCase();
    row.hidden = ($("only").checked && !row.classList.contains("bad")) || !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  for (const body of document.querySelectorAll(".grid tbody"))
    body.hidden = !body.querySelector("tr:not(.group):not([hidden])");
  $("found").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
}
$("find").addEventListener("input", search);
$("only").addEventListener("change", search);

document.querySelector(".grid").addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!way || !cell) return;
  event.preventDefault();
  const lines = rows.filter((row) => row.offsetParent !== null);
  let line = lines.indexOf(cell.parentElement), column = cell.cellIndex;
  for (;;) {  // the next one that way that has a story
    line += way[0];
    column += way[1];
    const next = lines[line]?.cells[column];
    if (!next || column < 1) return;
    const link = next.querySelector("a");
    if (link) { link.focus(); return; }
  }
});

follow();
document.documentElement.dataset.ready = "yes";
}

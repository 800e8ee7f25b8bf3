"use strict";
/* Draw a run into the elements of run.html; what listens beyond them ends with the signal. */
function drawRun(DATA, signal) {
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const HUES = 8;
const number = (n) => n.toLocaleString("en-US");
const hue = (place) => `--lane${place % HUES}`;
const SHOWN = { pass: "\u2713 pass", fail: "\u2717 fail", crash: "\u2717 crash", invalid: "? invalid", skip: "\u2013 skip", known: "! known" };

function make(tag, attributes, ...children) {
  const node = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") for (const [key, css] of Object.entries(value)) node.style.setProperty(key, css);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function percent(part, whole) {
  if (!whole) return "";
  const share = part / whole * 100;
  if (share > 0 && share < 0.05) return "<0.1 %";
  return `${share === 100 ? 100 : Math.min(share, 99.9).toFixed(1)} %`;
}

function span(ns, reach = ns) {
  const [unit, size] = reach >= 1e9 ? ["s", 1e9] : reach >= 1e6 ? ["ms", 1e6] : reach >= 1e3 ? ["\u00b5s", 1e3] : ["ns", 1];
  const digits = size === 1 ? 0 : ns / size >= 100 ? 1 : ns / size >= 10 ? 2 : 3;
  return `${(ns / size).toFixed(digits)} ${unit}`;
}

/* The colour of an entry's ring goes through all of the page; CPUs have that of their entry. */
const ringOfCpu = new Map();
DATA.rings.forEach((ring, place) => { if (!ringOfCpu.has(ring.cpu)) ringOfCpu.set(ring.cpu, place); });
const cpuHue = (cpu) => ringOfCpu.has(cpu) ? hue(ringOfCpu.get(cpu)) : "--soft";

function drawHead() {
  const { record, books } = DATA;
  const release = record.kernel.release || record.kernel.spec;
  $("head").append(make("div", { class: "headline" },
    make("span", { class: `verdict ${record.verdict}`, id: "verdict" }, SHOWN[record.verdict] || record.verdict),
    make("h1", {}, record.name),
    make("span", { class: "kernel" }, release === record.kernel.spec ? release : `${release} (${record.kernel.spec})`)));
  if (record.reasons.length)
    $("head").append(make("ol", { class: "reasons" }, record.reasons.map((why) => make("li", {}, why))));
  if (!books) {
    if (!record.reasons.length) return;
    $("head").append(make("p", { class: "hint" }, "The run ended before its books could be closed."));
    return;
  }
  const { accounts } = books;
  const lost = [
    ["ring full", accounts.queue_drops], ["dropped by XDP", accounts.dropped], ["aborted", accounts.aborted],
    ["redirect failed", accounts.redirect_errors], ["dropped by entry's program", accounts.prog_drop],
    ["no memory for an skb", accounts.alloc_drops], ["socket full", accounts.socket_drops],
  ].filter(([, frames]) => frames);
  const figure = (name, value, kind = "") => make("div", { class: kind }, make("dt", {}, name), make("dd", {}, value));
  $("head").append(make("dl", { class: "figures" },
    figure("frames injected", number(accounts.injected)),
    figure("delivered to the stack", number(accounts.delivered)),
    accounts.socket === null ? null : figure("received by the socket", number(accounts.socket)),
    lost.map(([name, frames]) => figure(name, number(frames), "loss")),
    figure("books", books.balanced ? "balanced" : "NOT balanced", books.balanced ? "" : "loss"),
    figure("took", `${record.duration_s.toFixed(1)} s`)));
}

/* ---- the flow picture ---- */

const SIGN = { loss: "\u2715 ", wrong: "\u203c ", exit: "\u2192 ", stage: "" };
const INK = { loss: "--bad", wrong: "--wrong", exit: "--warn", stage: "--soft" };

function drawFlow() {
  const picture = DATA.picture;
  if (!picture || !picture.nodes.some((node) => node.frames)) { $("flow").hidden = true; return; }
  const W = 1140, BAR = 12, SLOT = 18, GAP = 9, TOP = 26, LABEL = 190;
  const nodes = new Map(picture.nodes.map((node) => [node.name, { ...node, in: 0, out: 0 }]));
  const used = picture.columns.map((_, column) => [...nodes.values()].filter((node) => node.column === column));
  const last = used.reduce((most, list, column) => list.length ? column : most, 1);
  const most = Math.max(...used.map((list) => list.reduce((sum, node) => sum + (node.kind === "stage" ? node.frames : 0), 0)), 1);
  const rows = Math.max(...used.map((list) => list.filter((node) => node.kind === "stage").length));
  const scale = Math.max(170, Math.min(rows * 34, 420)) / most;
  const thick = (frames) => Math.max(1.5, frames * scale);
  let middle = 0;
  for (const list of used) {
    list.stage = list.filter((node) => node.kind === "stage");
    list.height = list.stage.reduce((sum, node) => sum + Math.max(thick(node.frames), SLOT) + GAP, -GAP);
    middle = Math.max(middle, list.height);
  }
  used.forEach((list, column) => {
    const x = column * (W - LABEL - BAR) / last;
    let y = TOP + (middle - list.height) / 2;
    for (const node of list.stage) {
      const tall = thick(node.frames);
      node.x = x; node.h = tall; node.y = y + Math.max(0, SLOT - tall) / 2;
      y += Math.max(tall, SLOT) + GAP;
    }
    list.x = x;
  });
  let bottom = TOP + middle + 22;  // below it all, a row for each loss, the last stage's first: no two cross
  for (const list of [...used].reverse()) {
    for (const node of list.filter((each) => each.kind !== "stage").reverse()) {
      const tall = thick(node.frames);
      node.x = list.x; node.h = tall; node.y = bottom + Math.max(0, SLOT - tall) / 2;
      bottom += Math.max(tall, SLOT) + GAP;
    }
  }
  const height = bottom;
  const said = picture.nodes.filter((node) => node.kind !== "stage").map((node) => `${node.label}: ${number(node.frames)}`);
  const svg = make("svg:svg", {
    viewBox: `0 0 ${W} ${height}`, width: W, height, role: "img",
    "aria-label": `Flow of ${number(nodes.get("injected").frames)} frames. ${said.join("; ") || "No losses."}`,
  });
  picture.columns.slice(0, last + 1).forEach((name, column) => {
    if (!used[column].stage.length || column < 2) return;
    svg.append(make("svg:text", { x: used[column].stage[0].x, y: 12, class: "column" }, name));
  });
  const whole = nodes.get("injected").frames;
  const links = picture.links.map((link) => ({ ...link, from: nodes.get(link.source), to: nodes.get(link.target), tall: thick(link.frames) }));
  for (const link of [...links].sort((a, b) => a.to.y - b.to.y)) { link.y0 = link.from.y + link.from.out + link.tall / 2; link.from.out += link.tall; }
  for (const link of [...links].sort((a, b) => a.from.y - b.from.y)) { link.y1 = link.to.y + link.to.in + link.tall / 2; link.to.in += link.tall; }
  for (const link of links) {
    const { from, to, tall, y0, y1 } = link;
    const x0 = from.x + BAR, x1 = to.x, bend = (x1 - x0) / 2;
    const cpu = to.cpu ?? from.cpu;
    const ink = to.kind !== "stage" ? INK[to.kind] : from.kind !== "stage" ? INK[from.kind] : cpu === null ? "--info" : cpuHue(cpu);
    const name = (node) => node.cpu === null || node.kind !== "stage" ? node.label : `${picture.columns[node.column]} ${node.label}`;
    svg.append(make("svg:path", {
      class: "link", d: `M${x0},${y0}C${x0 + bend},${y0} ${x1 - bend},${y1} ${x1},${y1}`,
      style: { fill: "none", stroke: `var(${ink})`, "stroke-width": tall },
    }, make("svg:title", {}, `${name(from)} \u2192 ${name(to)}: ${number(link.frames)} frames (${percent(link.frames, whole)})`)));
  }
  for (const node of nodes.values()) {
    if (node.x === undefined) continue;
    const ink = node.kind !== "stage" ? INK[node.kind] : node.cpu === null ? "--info" : cpuHue(node.cpu);
    svg.append(make("svg:rect", { x: node.x, y: node.y, width: BAR, height: node.h, rx: 1.5, style: { fill: `var(${ink})` } },
      make("svg:title", {}, `${node.label}: ${number(node.frames)}`)));
    const kind = node.kind === "loss" ? "halo loss-text" : node.kind === "wrong" ? "halo wrong-text" : "halo";
    svg.append(make("svg:text", { x: node.x + BAR + 6, y: node.y + node.h / 2 + 4.5, class: kind },
      `${SIGN[node.kind]}${node.label}`, make("svg:tspan", { dx: 7, class: "count" }, number(node.frames)),
      node.kind === "stage" ? null : make("svg:tspan", { dx: 7, class: "share" }, percent(node.frames, whole))));
  }
  $("sankey").append(make("div", { class: "scroll" }, svg));
  if (!said.length) $("sankey").append(make("p", { class: "hint" }, "Nothing was lost on the way."));
}

/* ---- the timeline ---- */

const KINDS = ["xdp_cpumap_enqueue", "xdp_cpumap_kthread", "xdp_exception", "xdp_redirect_err", "xdp_redirect", "xdp_devmap_xmit", "other"];
const ACTS = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
const ENQUEUE = 0, KTHREAD = 1, TROUBLE = 3;

function drawTime() {
  const raw = DATA.events, count = raw.k.length;
  if (!count) { $("time").hidden = true; return; }
  const at = new Float64Array(count);
  raw.dt.reduce((sum, dt, i) => at[i] = sum + dt, 0);
  const kind = Uint8Array.from(raw.k), cpu = Uint16Array.from(raw.c), ring = Int16Array.from(raw.r);
  const frames = Int32Array.from(raw.p), drops = Int32Array.from(raw.d), depth = Int32Array.from(raw.q);
  const end = Math.max(at[count - 1], 1), PAD = end * 0.004 + 1, LEFT = -PAD, RIGHT = end + PAD;
  const canvas = $("lanes"), pen = canvas.getContext("2d"), tip = $("tip");

  const cpus = [...new Set([...cpu, ...DATA.rings.map((each) => each.cpu)])].sort((a, b) => a - b);
  const rows = [];
  const GUTTER = 192, OVERVIEW = 26, AXIS = 24, FOOT = 6, BIN = 3, MARGIN = 14;
  const tallLane = cpus.length > 16 ? 44 : 66, tallRing = DATA.rings.length > 16 ? 36 : 54;
  let y = OVERVIEW + AXIS + 4;
  const pick = (test) => { const list = []; for (let i = 0; i < count; i++) if (test(i)) list.push(i); return Int32Array.from(list); };
  const sum = (list, test, of) => { let all = 0; for (const i of list) if (test(i)) all += of[i]; return all; };
  rows.push({ head: "CPUs: enqueued above the line, taken by the kthread below it", y, h: 18 }); y += 20;
  for (const each of cpus) {
    const index = pick((i) => cpu[i] === each);
    const offered = sum(index, (i) => kind[i] === ENQUEUE, frames), refused = sum(index, (i) => kind[i] === ENQUEUE, drops);
    const taken = sum(index, (i) => kind[i] === KTHREAD, frames);
    rows.push({ lane: each, index, y, h: tallLane, title: `CPU ${each}`, notes: [
      offered ? `enqueued ${number(offered)}${refused ? `, \u2715 ${number(refused)}` : ""}` : "enqueued nothing",
      taken ? `kthread took ${number(taken)}` : "kthread took nothing"] });
    y += tallLane + 5;
  }
  if (DATA.rings.length) {
    y += 4;
    rows.push({ head: "Rings: frames waiting, up to 8 of them in the kthread's hands, against qsize", y, h: 18 }); y += 20;
    const several = new Set(DATA.rings.map((each) => each.map)).size > 1;
    DATA.rings.forEach((each, place) => {
      const index = pick((i) => ring[i] === place);
      const refused = sum(index, (i) => kind[i] === ENQUEUE, drops);
      rows.push({ ring: place, index, y, h: tallRing, qsize: each.qsize, peak: each.peak,
        title: `entry ${each.cpu}${several ? ` of map ${each.map}` : ""}`,
        notes: [each.qsize ? `qsize ${number(each.qsize)}` : "qsize not known", `peak ${number(each.peak)}${refused ? `, \u2715 ${number(refused)}` : ""}`] });
      y += tallRing + 5;
    });
  }
  const height = y + FOOT;
  let view = [LEFT, RIGHT], width = 0, plot = 0, ink = {}, row = null, cursor = -1, pinned = -1, busy = false;

  function colours() {
    const css = getComputedStyle(document.documentElement);
    const names = ["ink", "soft", "line", "grid", "bad", "wrong", "info", "card", "page", ...Array.from({ length: HUES }, (_, i) => `lane${i}`)];
    ink = Object.fromEntries(names.map((name) => [`--${name}`, css.getPropertyValue(`--${name}`).trim()]));
  }
  const x = (t) => GUTTER + (t - view[0]) / (view[1] - view[0]) * plot;
  const time = (px) => view[0] + (px - GUTTER) / plot * (view[1] - view[0]);

  function bound(list, t) {  // the first of a list of events that is at t or later
    let low = 0, high = list.length;
    while (low < high) { const mid = (low + high) >> 1; if (at[list[mid]] < t) low = mid + 1; else high = mid; }
    return low;
  }
  const all = pick(() => true);

  function resize() {
    width = Math.max($("plot").clientWidth, 420);
    plot = width - GUTTER - MARGIN;
    const ratio = Math.min(window.devicePixelRatio || 1, 16000 / height);
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }
  function later() { if (!busy) { busy = true; requestAnimationFrame(() => { busy = false; draw(); }); } }

  function look(from, to) {
    const least = 200, wide = Math.min(Math.max(to - from, least), RIGHT - LEFT);
    const middle = (from + to) / 2;
    let start = middle - wide / 2;
    start = Math.min(Math.max(start, LEFT), RIGHT - wide);
    view = [start, start + wide];
    later();
  }
  function zoom(by, around = (view[0] + view[1]) / 2) {
    // traffic comes in bursts: zooming in goes for the nearest event, not for the silence beside it
    const n = bound(all, around), near_ = [n - 1, n].filter((m) => m >= 0 && m < count).map((m) => at[m]);
    const nearest = near_.reduce((best, t) => Math.abs(t - around) < Math.abs(best - around) ? t : best, near_[0]);
    const empty = bound(all, around - (around - view[0]) * by) === bound(all, around + (view[1] - around) * by);
    if (by < 1 && (empty || Math.abs(nearest - around) < (view[1] - view[0]) / plot * 30)) around = nearest;
    look(around - (around - view[0]) * by, around + (view[1] - around) * by);
  }

  function draw() {
    colours();
    pen.clearRect(0, 0, width, height);
    pen.textBaseline = "alphabetic";
    const bins = Math.floor(plot / BIN);
    drawOverview(); drawAxis();
    const lanes = rows.filter((each) => each.lane !== undefined);
    const binned = lanes.map((lane) => fill(lane, bins));
    const most = Math.max(...binned.map((each) => each.tallest)), tallest = Math.max(1, most);
    for (const each of rows) if (each.head) {
      text(each.head, 2, each.y + 13, "--soft", "600 12px system-ui, sans-serif");
    }
    lanes.forEach((lane, place) => drawLane(lane, binned[place], tallest));
    for (const each of rows) if (each.ring !== undefined) drawRing(each, bins);
    drawCursor();
    const first = bound(all, view[0]), behind = bound(all, view[1]);
    const fine = (view[1] - view[0]) / 1000;
    $("range").textContent = `${tick(Math.max(view[0], 0), fine, end)} to ${tick(Math.min(view[1], end), fine, end)} \u00b7 `
      + `${number(behind - first)} of ${number(count)} events \u00b7 a bar is ${span((view[1] - view[0]) / plot * BIN)}, the tallest ${number(most)} frame${most === 1 ? "" : "s"}`;
  }
  function text(what, px, py, colour, font = "12px system-ui, sans-serif", align = "left") {
    pen.font = font; pen.fillStyle = ink[colour]; pen.textAlign = align; pen.fillText(what, px, py);
  }

  function drawOverview() {
    pen.fillStyle = ink["--page"]; pen.fillRect(GUTTER, 0, plot, OVERVIEW - 4);
    const bins = Math.floor(plot / 2), load = new Float32Array(bins), lost = new Float32Array(bins);
    for (let i = 0; i < count; i++) {
      const b = Math.min(bins - 1, Math.floor((at[i] - LEFT) / (RIGHT - LEFT) * bins));
      if (kind[i] === ENQUEUE) { load[b] += frames[i]; lost[b] += drops[i]; }
    }
    const top = load.reduce((most, each) => Math.max(most, each), 1);
    for (let b = 0; b < bins; b++) {
      const h = load[b] / top * (OVERVIEW - 6);
      pen.fillStyle = ink["--soft"]; pen.fillRect(GUTTER + b * 2, OVERVIEW - 4 - h, 1.5, h);
      if (lost[b]) { pen.fillStyle = ink["--bad"]; pen.fillRect(GUTTER + b * 2, OVERVIEW - 4 - lost[b] / top * (OVERVIEW - 6) - 1, 1.5, lost[b] / top * (OVERVIEW - 6) + 1); }
    }
    const from = GUTTER + (view[0] - LEFT) / (RIGHT - LEFT) * plot, to = GUTTER + (view[1] - LEFT) / (RIGHT - LEFT) * plot;
    pen.strokeStyle = ink["--info"]; pen.lineWidth = 1.5;
    pen.strokeRect(from, 0.75, Math.max(to - from, 3), OVERVIEW - 5);
    text("the whole run", GUTTER - 10, 15, "--soft", "11px system-ui, sans-serif", "right");
  }

  function drawAxis() {
    const wide = view[1] - view[0], rough = wide / Math.max(plot / 110, 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    pen.lineWidth = 1;
    for (let t = Math.ceil(Math.max(view[0], 0) / step) * step; t <= view[1]; t += step) {
      const px = Math.round(x(t)) + 0.5;
      pen.strokeStyle = ink["--grid"];
      pen.beginPath(); pen.moveTo(px, OVERVIEW + AXIS - 3); pen.lineTo(px, height - FOOT); pen.stroke();
      if (px < width - 30) text(tick(t, step, end), px, OVERVIEW + 14, "--soft", "11px system-ui, sans-serif", "center");
    }
  }
  function tick(t, step, reach) {
    const [unit, size] = reach >= 1e9 ? ["s", 1e9] : reach >= 1e6 ? ["ms", 1e6] : reach >= 1e3 ? ["\u00b5s", 1e3] : ["ns", 1];
    const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
    return `${(t / size).toFixed(digits)} ${unit}`;
  }

  function fill(lane, bins) {
    const hues = Math.min(DATA.rings.length, HUES) + 1;
    const up = Array.from({ length: hues }, () => new Float32Array(bins)), down = up.map(() => new Float32Array(bins));
    const lost = new Float32Array(bins), other = new Uint8Array(bins), height_ = [new Float32Array(bins), new Float32Array(bins)];
    let tallest = 0;
    const wide = view[1] - view[0];
    for (let n = bound(lane.index, view[0]), size = lane.index.length; n < size; n++) {
      const i = lane.index[n];
      if (at[i] > view[1]) break;
      const b = Math.min(bins - 1, Math.floor((at[i] - view[0]) / wide * bins));
      if (kind[i] > KTHREAD) { if (kind[i] <= TROUBLE) other[b] = 1; continue; }
      const colour = ring[i] < 0 ? hues - 1 : ring[i] % HUES;
      if (kind[i] === ENQUEUE) { up[colour][b] += frames[i] - drops[i]; lost[b] += drops[i]; } else down[colour][b] += frames[i];
      const reached = height_[kind[i]][b] += frames[i];
      if (reached > tallest) tallest = reached;
    }
    return { up, down, lost, other, tallest, bins };
  }

  function drawLane(lane, of, tallest) {
    frame(lane);
    const base = Math.round(lane.y + lane.h / 2), reach = lane.h / 2 - 5, bar = plot / of.bins;
    const stack = [new Float32Array(of.bins), new Float32Array(of.bins)];
    [of.up, of.down].forEach((part, way) => part.forEach((load, colour) => {
      pen.fillStyle = colour === part.length - 1 ? ink["--soft"] : ink[hue(colour)];
      for (let b = 0; b < of.bins; b++) {
        if (!load[b]) continue;
        const h = Math.max(1.5, load[b] / tallest * reach), from = stack[way][b];
        pen.fillRect(GUTTER + b * bar, way ? base + 1 + from : base - from - h, Math.max(bar - 0.6, 1.4), h);
        stack[way][b] += h;
      }
    }));
    pen.fillStyle = ink["--bad"];
    for (let b = 0; b < of.bins; b++) {
      if (!of.lost[b]) continue;
      const h = Math.max(2, of.lost[b] / tallest * reach);
      pen.fillRect(GUTTER + b * bar, base - stack[0][b] - h, Math.max(bar - 0.6, 1.4), h);
      cross(GUTTER + (b + 0.5) * bar, Math.max(lane.y + 5, base - stack[0][b] - h - 5));
    }
    pen.fillStyle = ink["--wrong"];
    for (let b = 0; b < of.bins; b++) if (of.other[b]) diamond(GUTTER + (b + 0.5) * bar, base);
    pen.fillStyle = ink["--line"]; pen.fillRect(GUTTER, base, plot, 1);
  }
  function cross(px, py) {
    pen.strokeStyle = ink["--bad"]; pen.lineWidth = 1.2; pen.beginPath();
    pen.moveTo(px - 2, py - 2); pen.lineTo(px + 2, py + 2); pen.moveTo(px + 2, py - 2); pen.lineTo(px - 2, py + 2); pen.stroke();
  }
  function diamond(px, py) {
    pen.beginPath(); pen.moveTo(px, py - 5); pen.lineTo(px + 4, py); pen.lineTo(px, py + 5); pen.lineTo(px - 4, py); pen.fill();
  }
  function frame(each) {
    pen.strokeStyle = each === row ? ink["--info"] : ink["--line"]; pen.lineWidth = 1;
    pen.strokeRect(GUTTER - 0.5, each.y + 0.5, plot + 1, each.h - 1);
    const place = each.ring ?? ringOfCpu.get(each.lane);
    pen.fillStyle = place === undefined ? ink["--soft"] : ink[hue(place)];
    pen.fillRect(GUTTER - 6, each.y, 4, each.h);
    const middle = each.y + each.h / 2;
    text(each.title, 2, middle - 9, "--ink", "600 13px system-ui, sans-serif");
    each.notes.forEach((note, n) => text(note, 2, middle + 6 + n * 14, note.includes("\u2715") ? "--bad" : "--soft", "11px system-ui, sans-serif"));
  }

  function drawRing(each, bins) {
    frame(each);
    // a queue far from full is drawn to the scale of its peak, and says so
    const low = each.peak < each.qsize / 8, top = low ? Math.max(each.peak * 1.25, 4) : Math.max(each.qsize, each.peak, 1) * 1.08;
    const floor = each.y + each.h - 2, reach = each.h - 6, wide = view[1] - view[0], bar = plot / bins;
    const colour = ink[hue(each.ring)];
    let n = bound(each.index, view[0]), level = n > 0 ? depth[each.index[n - 1]] : 0;
    const tops = new Float32Array(bins), lows = new Float32Array(bins), lost = [];
    for (let b = 0; b < bins; b++) {
      const until = view[0] + wide * (b + 1) / bins;
      let most = level, least = level, refused = 0;
      while (n < each.index.length && at[each.index[n]] < until) {
        const i = each.index[n++];
        level = depth[i]; most = Math.max(most, level); least = Math.min(least, level);
        if (kind[i] === ENQUEUE) refused += drops[i];
      }
      tops[b] = most; lows[b] = least;
      if (refused) lost.push(b);
    }
    const py = (frames_) => floor - frames_ / top * reach;
    pen.fillStyle = colour; pen.globalAlpha = 0.3;
    for (let b = 0; b < bins; b++) if (tops[b]) pen.fillRect(GUTTER + b * bar, py(tops[b]), bar + 0.3, floor - py(tops[b]));
    pen.globalAlpha = 0.75;
    for (let b = 0; b < bins; b++) if (lows[b]) pen.fillRect(GUTTER + b * bar, py(lows[b]), bar + 0.3, floor - py(lows[b]));
    pen.globalAlpha = 1; pen.strokeStyle = colour; pen.lineWidth = 1.2; pen.beginPath();
    for (let b = 0; b < bins; b++) { const h = py(tops[b]); b ? pen.lineTo(GUTTER + b * bar, h) : pen.moveTo(GUTTER, h); pen.lineTo(GUTTER + (b + 1) * bar, h); }
    pen.stroke();
    const limit = low ? each.peak : each.qsize;
    if (limit) {
      pen.strokeStyle = low ? ink["--soft"] : ink["--bad"]; pen.setLineDash([5, 4]); pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(GUTTER, py(limit) + 0.5); pen.lineTo(GUTTER + plot, py(limit) + 0.5); pen.stroke(); pen.setLineDash([]);
      const label = low ? `peak ${number(each.peak)}: ${percent(each.peak, each.qsize)} of qsize ${number(each.qsize)}` : `qsize ${number(each.qsize)}`;
      pen.font = "11px system-ui, sans-serif";
      const long = pen.measureText(label).width;
      pen.fillStyle = ink["--card"]; pen.globalAlpha = 0.8; pen.fillRect(GUTTER + plot - long - 10, py(limit) + 3, long + 8, 13); pen.globalAlpha = 1;
      text(label, GUTTER + plot - 6, py(limit) + 13, low ? "--soft" : "--bad", "11px system-ui, sans-serif", "right");
    }
    for (const b of lost) cross(GUTTER + (b + 0.5) * bar, each.y + 5);
  }

  function drawCursor() {
    for (const [i, colour] of [[cursor, "--soft"], [pinned, "--info"]]) {
      if (i < 0 || at[i] < view[0] || at[i] > view[1]) continue;
      const px = Math.round(x(at[i])) + 0.5;
      pen.strokeStyle = ink[colour]; pen.lineWidth = i === pinned ? 1.5 : 1;
      pen.beginPath(); pen.moveTo(px, OVERVIEW + AXIS - 3); pen.lineTo(px, height - FOOT); pen.stroke();
    }
  }

  /* -- one event, told */

  function describe(i) {
    const more = raw.x[i] || {};
    const fields = [];
    const entry = ring[i] >= 0 ? DATA.rings[ring[i]] : null;
    if (kind[i] === ENQUEUE) {
      fields.push(["map_id", more.map_id ?? entry.map], ["to_cpu", more.to_cpu ?? entry.cpu], ["processed", more.processed ?? frames[i]], ["drops", drops[i]]);
    } else if (kind[i] === KTHREAD) {
      fields.push(["map_id", more.map_id ?? entry.map], ["processed", frames[i]], ["drops", more.drops || 0], ["sched", raw.s[i]],
        ["xdp_pass", more.xdp_pass || 0], ["xdp_drop", more.xdp_drop || 0], ["xdp_redirect", more.xdp_redirect || 0]);
    } else fields.push(...Object.entries(more).filter(([name]) => name !== "name"));
    return { name: more.name || KINDS[kind[i]], fields, entry };
  }
  function summary(i) {
    if (kind[i] === ENQUEUE) {
      const to = DATA.rings[ring[i]];
      return `${frames[i]} offered to entry ${to ? to.cpu : "?"}` + (drops[i] ? `, ${drops[i]} refused: ring full` : "");
    }
    if (kind[i] === KTHREAD) return frames[i] ? `kthread took ${frames[i]}` + (drops[i] ? `, ${drops[i]} dropped` : "") : "kthread woke and took nothing";
    const more = raw.x[i] || {};
    if (KINDS[kind[i]] === "xdp_exception") return `program ${more.prog_id} answered ${ACTS[more.act] || `nonsense, ${more.act}`}`;
    if (KINDS[kind[i]] === "xdp_redirect_err") return `a redirect to key ${more.map_index} of map ${more.map_id} failed: errno ${-more.err}`;
    if (KINDS[kind[i]] === "xdp_devmap_xmit") return `${more.sent} sent to device ${more.to_ifindex}` + (more.drops ? `, ${more.drops} dropped` : "");
    return describe(i).fields.map(([name, value]) => `${name}=${value}`).join(" ");
  }
  function line(i) {
    const { name, fields } = describe(i);
    const stamp = ((raw.t0 + at[i]) / 1e9).toFixed(6);
    return `[${String(cpu[i]).padStart(3, "0")}] ${stamp}: ${name}: ${fields.map(([key, value]) => `${key}=${value}`).join(" ")}`;
  }
  function waiting(i) {
    const to = DATA.rings[ring[i]];
    return to ? `${number(depth[i])} of ${number(to.qsize)} waiting in entry ${to.cpu}` : "";
  }
  function pin(i) {
    pinned = i;
    const box = $("pinned");
    box.replaceChildren();
    if (i >= 0) {
      const go = (by) => () => { const next = i + by; if (next >= 0 && next < count) { show(next); pin(next); } };
      box.append(
        make("div", {}, make("b", {}, `CPU ${cpu[i]}, ${tick(at[i], 1000, end)}: ${summary(i)}`), " ", make("span", { class: "hint" }, waiting(i))),
        make("div", { class: "raw" }, line(i)),
        make("div", { class: "buttons" },
          make("button", { onclick: go(-1) }, "\u2190 event before"),
          make("button", { onclick: go(1) }, "event after \u2192"),
          make("button", { onclick: () => pin(-1) }, "let go")));
    }
    later();
  }
  function show(i) {
    if (at[i] < view[0] || at[i] > view[1]) { const wide = view[1] - view[0]; look(at[i] - wide / 2, at[i] + wide / 2); }
  }

  function rowAt(py) { return rows.find((each) => !each.head && py >= each.y && py < each.y + each.h) || null; }
  function near(each, px, py) {
    const list = each.index, t = time(px), reach = (view[1] - view[0]) / plot * 7;
    const wanted = each.lane === undefined ? null : py < each.y + each.h / 2 ? ENQUEUE : KTHREAD;
    const n = bound(list, t);
    let best = -1, far = Infinity;
    const tryOne = (m) => {
      const i = list[m], off = Math.abs(at[i] - t);
      if (off > reach) return false;
      const cost = off + (wanted === null || kind[i] === wanted || kind[i] > KTHREAD ? 0 : reach);
      if (cost < far) { far = cost; best = i; }
      return true;
    };
    for (let m = n, left = 4000; m < list.length && left && tryOne(m); m++, left--);
    for (let m = n - 1, left = 4000; m >= 0 && left && tryOne(m); m--, left--);
    return best;
  }
  function around(each, px) {
    const bins = Math.floor(plot / BIN), bar = plot / bins, b = Math.floor((px - GUTTER) / bar);
    const from = time(GUTTER + b * bar), to = time(GUTTER + (b + 1) * bar);
    let events = 0, offered = 0, refused = 0, taken = 0;
    for (let n = bound(each.index, from); n < each.index.length && at[each.index[n]] < to; n++) {
      const i = each.index[n];
      events++;
      if (kind[i] === ENQUEUE) { offered += frames[i]; refused += drops[i]; }
      if (kind[i] === KTHREAD) taken += frames[i];
    }
    return events < 2 ? "" : `this bar: ${events} events, ${number(offered)} offered, ${number(refused)} refused, ${number(taken)} taken`;
  }
  function tell(each, i, px, py) {
    tip.replaceChildren(make("b", {}, `CPU ${cpu[i]} \u00b7 ${describe(i).name}`), make("span", {}, summary(i)), make("span", {}, [tick(at[i], 1000, end), waiting(i)].filter(Boolean).join(" \u00b7 ")));
    const crowd = around(each, px);
    if (crowd) tip.append(make("span", {}, crowd));
    tip.hidden = false;
    tip.style.left = `${Math.min(px + 14, Math.max(width - tip.offsetWidth - 4, 0))}px`;
    tip.style.top = `${py + 16 + tip.offsetHeight > height ? py - tip.offsetHeight - 10 : py + 16}px`;
  }

  /* -- mouse and keyboard */

  let drag = null;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) * width / box.width, event.clientY - box.top]; };
  canvas.addEventListener("wheel", (event) => {
    const [px] = place(event);
    if (px < GUTTER) return;
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!sideways && event.deltaY > 0 && view[0] <= LEFT && view[1] >= RIGHT) return;  // let the page scroll
    event.preventDefault();
    const step = event.deltaMode === 1 ? 16 : 1;
    if (sideways) { const by = event.deltaX * step / plot * (view[1] - view[0]); look(view[0] + by, view[1] + by); }
    else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * step)) / 320), time(px));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    const [px, py] = place(event);
    drag = { px, py, view: [...view], moved: false, overview: py < OVERVIEW };
    canvas.setPointerCapture(event.pointerId);
    if (drag.overview) jump(px);
  });
  function jump(px) {
    const t = LEFT + (px - GUTTER) / plot * (RIGHT - LEFT), half = (view[1] - view[0]) / 2;
    look(t - half, t + half);
  }
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = place(event);
    if (drag) {
      if (Math.abs(px - drag.px) > 3) { drag.moved = true; canvas.classList.add("dragged"); }
      if (drag.overview) jump(px);
      else if (drag.moved) { const by = (drag.px - px) / plot * (drag.view[1] - drag.view[0]); look(drag.view[0] + by, drag.view[1] + by); }
      tip.hidden = true;
      return;
    }
    const each = rowAt(py), i = each && px >= GUTTER ? near(each, px, py) : -1;
    if (i !== cursor) { cursor = i; later(); }
    if (i >= 0) tell(each, i, px, py); else tip.hidden = true;
  });
  canvas.addEventListener("pointerup", (event) => {
    const [px, py] = place(event), was = drag;
    drag = null; canvas.classList.remove("dragged");
    if (!was || was.moved || was.overview || px < GUTTER) return;
    const each = rowAt(py);
    if (each) { row = each; pin(near(each, px, py)); }
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; if (cursor >= 0) { cursor = -1; later(); } });
  canvas.addEventListener("dblclick", () => look(LEFT, RIGHT));
  canvas.addEventListener("keydown", (event) => {
    const real = rows.filter((each) => !each.head), wide = view[1] - view[0];
    const keys = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1),
      ArrowUp: () => change(-1), ArrowDown: () => change(1),
      "+": () => zoom(0.6, focus()), "=": () => zoom(0.6, focus()), "-": () => zoom(1 / 0.6, focus()), 0: () => look(LEFT, RIGHT),
      PageUp: () => look(view[0] - wide * 0.8, view[1] - wide * 0.8), PageDown: () => look(view[0] + wide * 0.8, view[1] + wide * 0.8),
      Enter: () => pin(cursor), Escape: () => { tip.hidden = true; cursor = -1; pin(-1); },
    };
    const focus = () => cursor >= 0 ? at[cursor] : (view[0] + view[1]) / 2;
    const change = (by) => { const next = real.indexOf(row) + by; row = real[Math.max(0, Math.min(real.length - 1, next))]; step(0); };
    const step = (by) => {
      row ||= real[0];
      if (!row.index.length) { later(); return; }
      let n = cursor < 0 ? bound(row.index, view[0]) : bound(row.index, at[cursor]);
      if (cursor >= 0 && row.index[n] !== cursor) { const same = row.index.indexOf(cursor); if (same >= 0) n = same; }
      n = Math.max(0, Math.min(row.index.length - 1, cursor < 0 ? n : n + by));
      cursor = row.index[n];
      show(cursor); draw();
      tell(row, cursor, x(at[cursor]), row.y + row.h / 2);
    };
    if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); keys[event.key](); }
  });
  $("zoom-in").addEventListener("click", () => zoom(0.5));
  $("zoom-out").addEventListener("click", () => zoom(2));
  $("fit").addEventListener("click", () => look(LEFT, RIGHT));
  for (const query of ["print", "(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", resize, { signal });
  window.addEventListener("beforeprint", resize, { signal });
  window.addEventListener("afterprint", resize, { signal });
  const sizes = new ResizeObserver(() => { if ($("plot").clientWidth !== width) resize(); });
  sizes.observe($("plot"));
  signal?.addEventListener("abort", () => sizes.disconnect());

  const lostAny = sum(all, (i) => kind[i] === ENQUEUE, drops) > 0, otherAny = kind.some((each) => each > KTHREAD && each <= TROUBLE);
  $("legend").append(
    ...DATA.rings.slice(0, HUES).map((each, n) => make("span", {}, make("i", { style: { background: `var(${hue(n)})` } }), `entry ${each.cpu}`)),
    lostAny ? make("span", {}, make("b", { style: { color: "var(--bad)" } }, "\u2715"), "refused, ring full") : "",
    otherAny ? make("span", {}, make("b", { style: { color: "var(--wrong)" } }, "\u25c6"), "exception or failed redirect") : "");
  if (raw.total > count)
    $("time").append(make("p", { class: "hint" }, `Only the first ${number(count)} of ${number(raw.total)} events are here; the others are in the trace beside this page.`));
  resize();
}

/* ---- tables ---- */

function table(head, body, foot) {
  const cell = (tag, value, n, numeric) => {
    if (value instanceof Node && value.tagName === "TD") return value;
    return make(tag, { class: numeric ? "n" : null, scope: tag === "th" ? "col" : null }, typeof value === "number" ? number(value) : value ?? "");
  };
  const numeric = head.map((_, n) => body.length > 0 && body.every((line) => typeof line[n] === "number" || line[n] === null || (line[n] instanceof Node && line[n].classList.contains("n"))));
  return make("table", {},
    make("thead", {}, make("tr", {}, head.map((name, n) => cell("th", name, n, numeric[n])))),
    make("tbody", {}, body.map((line) => make("tr", {}, line.map((value, n) => cell("td", value, n, numeric[n]))))),
    foot ? make("tfoot", {}, make("tr", {}, foot.map((value, n) => cell("td", value, n, numeric[n])))) : null);
}

function drawCpus() {
  const lines = DATA.books ? DATA.books.per_cpu : [];
  if (!lines.length) { $("cpus").hidden = true; return; }
  const socket = lines.some((line) => line.socket !== null);
  const waits = DATA.waits || {}, waited = Object.keys(waits).length > 0, WAITS = ["p50", "p90", "p99", "max"];
  const wait = (cpu, part) => make("td", { class: "n" }, waits[cpu] ? span(waits[cpu][part] * 1000) : "");
  const lost = (frames) => make("td", { class: frames ? "n lost" : "n" }, number(frames));
  const row = (line) => [
    make("td", {}, make("span", { class: "dot", style: { background: `var(${cpuHue(line.cpu)})` } }), `CPU ${line.cpu}`),
    line.enqueued, lost(line.dropped), line.kthread, line.delivered, ...(socket ? [line.socket] : []),
    ...(waited ? WAITS.map((part) => wait(line.cpu, part)) : [])];
  const total = (key) => lines.reduce((sum, line) => sum + (line[key] || 0), 0);
  $("cpus").querySelector(".scroll").append(table(
    ["", "enqueued", "refused, ring full", "taken by kthread", "to the stack", ...(socket ? ["to the socket"] : []),
      ...(waited ? WAITS.map((part) => `waited ${part === "max" ? "at most" : part}`) : [])],
    lines.map(row),
    ["all", total("enqueued"), lost(total("dropped")), total("kthread"), total("delivered"), ...(socket ? [total("socket")] : []),
      ...(waited ? WAITS.map(() => make("td")) : [])]));
  if (waited) $("cpus").append(make("p", { class: "hint" },
    "How long frames waited in the rings, from the event of their enqueueing to that of the kthread that took them: a report, on which no verdict depends."));
}

function drawExpected() {
  const { books, expectations } = DATA, box = $("expected").querySelector(".scroll");
  const answer = (met) => make("span", { class: met ? "ok" : "not" }, met ? "\u2713 yes" : "\u2717 no");
  if (expectations.length) box.append(table(["", "expected", "found", "met"],
    expectations.map((each) => [each.what, each.expected, each.found, answer(each.met)])));
  if (books) {
    if (books.imbalances.length) box.append(make("ul", { class: "imbalances" }, books.imbalances.map((each) => make("li", {}, each))));
    const broken = books.laws.filter((law) => !law.holds).length;
    box.append(make("details", { open: broken > 0 }, make("summary", {}, `${books.laws.length} laws of the books, `,
      make("span", { class: broken ? "not" : "ok" }, broken ? `\u2717 ${broken} broken` : "\u2713 all hold")), table(["law", "left", "right", "holds", "because"], books.laws.map((law) => [
      law.name, law.left, law.right, answer(law.holds), make("td", { class: "explains" }, law.explanation)]))));
  }
  if (!books && !expectations.length) $("expected").hidden = true;
}

function drawTexts() {
  const box = $("texts");
  for (const said of DATA.texts) {
    if (!said.text) continue;
    const pre = make("pre", { tabindex: 0, "aria-label": said.name });
    const links = [];
    let done = 0;
    said.splats.forEach((splat, n) => {
      const id = `${said.name}-${n + 1}`;
      pre.append(said.text.slice(done, splat.start), make("mark", { id, tabindex: -1 }, said.text.slice(splat.start, splat.end)));
      done = splat.end;
      links.push(make("li", {}, make("a", { href: `#${id}` }, make("span", { class: "kind" }, splat.kind), ` ${splat.title}`)));
    });
    pre.append(said.text.slice(done));
    const lines = said.text.trimEnd().split("\n").length;
    box.append(make("details", { open: said.splats.length > 0 || lines <= 40 },
      make("summary", {}, `${said.name}, ${number(lines)} line${lines === 1 ? "" : "s"}` + (said.splats.length ? `, \u2717 ${said.splats.length} recognised as broken` : ", nothing recognised as broken")),
      said.cut ? make("p", { class: "hint" }, `${number(said.cut)} characters before this are left out.`) : null,
      links.length ? make("ol", { class: "splats" }, links) : null, pre));
    if (!said.splats.length) box.lastChild.addEventListener("toggle", () => { pre.scrollTop = pre.scrollHeight; });
  }
  if (!box.children.length) $("said").hidden = true;
}

function drawFacts() {
  const copy = (value) => {
    const button = make("button", { onclick: async () => {
      try { await navigator.clipboard.writeText(value); } catch {
        const range = document.createRange(); range.selectNodeContents(button.previousSibling);
        getSelection().removeAllRanges(); getSelection().addRange(range); document.execCommand("copy");
      }
      button.textContent = "copied";
    } }, "copy");
    return make("div", { class: "line" }, make("code", {}, value), make("span", { class: "buttons" }, button));
  };
  $("facts").querySelector(".scroll").append(make("table", { class: "facts" }, make("tbody", {}, DATA.facts.map(([name, value, again]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, again ? copy(value) : value))))));
}

drawHead(); drawFlow(); drawCpus(); drawExpected(); drawTexts(); drawFacts(); drawTime();
const nav = make("nav", { "aria-label": "on this page" }, [...$("run").querySelectorAll("section:not([hidden])")].map((each) =>
  make("a", { href: `#${each.id}` }, each.querySelector("h2").textContent)));
$("head").append(nav);
document.documentElement.dataset.ready = "yes";
}
{
const own = document.getElementById("data");
if (own) drawRun(JSON.parse(own.textContent));
}

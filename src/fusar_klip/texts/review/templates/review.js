"use strict";
// Judging one tile after the other. All texts enter the page by textContent, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const JUDGEMENTS = ["right", "wrong", "unsure"];
  const LABELS = { right: "✓", wrong: "✗", unsure: "?" };
  const TASKS = { ground_target: "ground target", marine_target: "marine target", terrain: "terrain" };
  const key = `fusar-klip review ${data.texts_sha256} ${data.seed} ${data.part}`;
  const element = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  let answers = {};
  let tile = 0;
  let field = 0;
  let unsaved = false;

  function notice(text) {
    element("notice").textContent = text;
    element("notice").hidden = !text;
  }

  // The browser's own store; a page from a file may be denied it, and then only the download keeps answers.
  function keep() {
    unsaved = true;
    try {
      localStorage.setItem(key, JSON.stringify({ reviewer: element("reviewer").value, answers, tile, field }));
    } catch (error) {
      notice("This browser does not keep the answers: download them before you close the page.");
    }
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(key) || "{}");
      element("reviewer").value = kept.reviewer || "";
      accept(kept.answers || {});
      tile = Math.min(kept.tile || 0, data.tiles.length - 1);
      field = kept.field || 0;
    } catch (error) {
      notice("This browser does not keep the answers: download them before you close the page.");
    }
  }

  function accept(given) {
    for (const shown of data.tiles) {
      for (const [name] of shown.fields) {
        const judgement = given[shown.id] && given[shown.id][name];
        if (JUDGEMENTS.includes(judgement)) (answers[shown.id] ||= {})[name] = judgement;
      }
    }
  }

  const judged = (shown) => Object.keys(answers[shown.id] || {}).length;

  function judge(judgement) {
    const shown = data.tiles[tile];
    const name = shown.fields[field][0];
    const own = (answers[shown.id] ||= {});
    if (judgement) own[name] = judgement;
    else delete own[name];
    if (!Object.keys(own).length) delete answers[shown.id];
    if (judgement) {
      if (field + 1 < shown.fields.length) field += 1;
      else if (tile + 1 < data.tiles.length) { tile += 1; field = 0; }
    }
    keep();
    draw();
  }

  function move(step) {
    tile = Math.max(0, Math.min(data.tiles.length - 1, tile + step));
    field = 0;
    keep();
    draw();
  }

  function nextOpen() {
    for (let ahead = 0; ahead < data.tiles.length; ahead += 1) {
      const at = (tile + ahead) % data.tiles.length;
      const shown = data.tiles[at];
      const open = shown.fields.findIndex(([name]) => !(answers[shown.id] || {})[name]);
      if (open >= 0) { tile = at; field = open; keep(); draw(); return; }
    }
    notice("Every sentence is judged: download the answers.");
  }

  function download() {
    const { tiles, ...about } = data;
    const content = { ...about, reviewer: element("reviewer").value.trim() || "anonymous", answers };
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    const who = content.reviewer.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "") || "reviewer";
    link.download = `review-${data.dataset}-${data.texts}-${data.part.replaceAll(" ", "-")}-${who}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
  }

  async function load(file) {
    try {
      const given = JSON.parse(await file.text());
      if (given.format !== data.format || given.texts_sha256 !== data.texts_sha256) throw new Error("other texts");
      accept(given.answers);
      if (given.reviewer) element("reviewer").value = given.reviewer;
      notice("");
      keep();
      draw();
    } catch (error) {
      notice(`${file.name} holds no answers to these texts; nothing was changed.`);
    }
  }

  function drawFields(shown) {
    const own = answers[shown.id] || {};
    element("fields").replaceChildren(...shown.fields.map(([name, text], index) => {
      const line = make("li", index === field ? "current" : "");
      line.append(make("span", "name", name), make("span", "text", text));
      const choices = make("span", "choices");
      for (const judgement of JUDGEMENTS) {
        const button = make("button", judgement, LABELS[judgement]);
        button.type = "button";
        button.title = judgement;
        button.setAttribute("aria-label", `${name}: ${judgement}`);
        button.setAttribute("aria-pressed", String(own[name] === judgement));
        button.addEventListener("click", (event) => { event.stopPropagation(); field = index; judge(judgement); });
        choices.append(button);
      }
      line.append(choices);
      line.addEventListener("click", () => { field = index; draw(); });
      return line;
    }));
  }

  function drawScaleBar(shown) {
    element("scalebar").hidden = !shown.side_m;
    if (!shown.side_m) return;
    const longest = shown.side_m / 4;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = [5, 2, 1].find((step) => step * power <= longest) * power;
    const image = element("image");
    const side = Math.min(image.clientWidth, image.clientHeight) || image.clientWidth;
    element("scalebar").querySelector("i").style.width = `${(side * length) / shown.side_m}px`;
    element("scalebar").querySelector("b").textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
  }

  function drawWhere(shown) {
    const known = shown.lon !== null;
    element("pin").hidden = !known;
    if (known) {
      element("pin").style.left = `${((shown.lon + 180) / 360) * 100}%`;
      element("pin").style.top = `${((84 - shown.lat) / 150) * 100}%`;
    }
    const hemispheres = known &&
      `${Math.abs(shown.lat).toFixed(4)}° ${shown.lat < 0 ? "S" : "N"}, ` +
      `${Math.abs(shown.lon).toFixed(4)}° ${shown.lon < 0 ? "W" : "E"}`;
    element("where").textContent = [known ? hemispheres : "place not known", shown.where].filter(Boolean).join(" · ");
  }

  // North is up; the tile's square is drawn to scale but never smaller than can be seen.
  function drawLocal(shown) {
    const local = element("local");
    if (shown.lon === null) { local.replaceChildren(); return; }
    const distance = (near) => Math.hypot(near.east_km, near.north_km);
    const nearby = [...shown.nearby].sort((a, b) => distance(a) - distance(b));
    // The nearest of each kind decide how far the map reaches.
    const nearest = ["airport", "port", "city"].map((kind) => nearby.find((near) => near.kind === kind));
    const reach = 1.3 * Math.max(1.5, ...nearest.filter(Boolean).map(distance));
    const scale = 76 / reach;
    const ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", "0 0 240 160");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Airports, ports and cities around the tile, north up");
    const add = (tag, attributes, text) => {
      const part = document.createElementNS(ns, tag);
      for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
      if (text !== undefined) part.textContent = text;
      svg.append(part);
    };
    const ring = [1, 2, 5, 10, 20, 50].filter((km) => km <= reach).pop();
    add("circle", { class: "ring", cx: 120, cy: 80, r: ring * scale });
    add("text", { class: "faint", x: 120, y: 80 - ring * scale + 9, "text-anchor": "middle" }, `${ring} km`);
    const side = Math.max(6, ((shown.side_m || 0) / 1000) * scale);
    const labels = [];
    for (const near of nearby) {
      const x = 120 + near.east_km * scale;
      const y = 80 - near.north_km * scale;
      if (y < 4 || y > 156 || x < 4 || x > 236) continue;
      if (near.kind === "airport") add("rect", { class: "airport", x: x - 3, y: y - 3, width: 6, height: 6 });
      else add("circle", { class: near.kind, cx: x, cy: y, r: 3 });
      const short = near.name.length > 22 ? `${near.name.slice(0, 21)}…` : near.name;
      const name = near.kind === "port" ? `Port ${short}` : short;
      const width = name.length * 4.7;
      const right = x + 6 + width < 238;
      const box = [right ? x + 6 : x - 6 - width, y - 6, width, 11];
      const covers = (b) => b[0] < box[0] + box[2] && box[0] < b[0] + b[2] && Math.abs(b[1] - box[1]) < 10;
      if (box[0] < 0 || labels.some(covers)) continue;
      labels.push(box);
      add("text", { x: right ? x + 6 : x - 6, y: y + 3, "text-anchor": right ? "start" : "end" }, name);
    }
    add("rect", { class: "tile", x: 120 - side / 2, y: 80 - side / 2, width: side, height: side });
    const caption = make("figcaption", "", "Red: the tile. Squares: airports, blue: ports, grey: cities. North is up.");
    local.replaceChildren(svg, caption);
  }

  function draw() {
    const shown = data.tiles[tile];
    field = Math.min(field, shown.fields.length - 1);
    const image = element("image");
    if (image.dataset.tile !== shown.id) {
      image.dataset.tile = shown.id;
      image.src = shown.image;
      element("image").parentElement.classList.remove("zoomed");
      image.alt = `SAR image of the tile ${shown.id}`;
      drawWhere(shown);
      drawLocal(shown);
      element("facts").textContent = shown.facts.join(" · ");
      element("tile-id").textContent = shown.id;
      element("task").textContent = `· ${TASKS[shown.task]}`;
    }
    element("place").textContent = `Tile ${tile + 1} of ${data.tiles.length}`;
    drawFields(shown);
    const all = data.tiles.reduce((sum, each) => sum + each.fields.length, 0);
    const done = data.tiles.reduce((sum, each) => sum + judged(each), 0);
    element("progress").max = all;
    element("progress").value = done;
    element("done").textContent = `${done} of ${all} judged`;
  }

  const KEYS = {
    1: () => judge("right"), r: () => judge("right"), 2: () => judge("wrong"), w: () => judge("wrong"),
    3: () => judge("unsure"), u: () => judge("unsure"), 0: () => judge(null), Backspace: () => judge(null),
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), n: nextOpen, s: download,
    ArrowDown: () => { field = Math.min(field + 1, data.tiles[tile].fields.length - 1); draw(); },
    ArrowUp: () => { field = Math.max(field - 1, 0); draw(); },
    z: () => element("image").parentElement.classList.toggle("zoomed"),
  };
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.altKey || event.metaKey) return;
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey && pressed !== "s") return;
    if (KEYS[pressed]) { event.preventDefault(); KEYS[pressed](); }
  });
  element("previous").addEventListener("click", () => move(-1));
  element("next").addEventListener("click", () => move(1));
  element("open").addEventListener("click", nextOpen);
  element("save").addEventListener("click", download);
  element("load").addEventListener("change", (event) => {
    if (event.target.files.length) load(event.target.files[0]);
    event.target.value = "";
  });
  element("reviewer").addEventListener("input", keep);
  element("image").addEventListener("load", () => drawScaleBar(data.tiles[tile]));
  element("image").addEventListener("mousemove", (event) => {
    const box = event.target.parentElement.getBoundingClientRect();
    event.target.style.transformOrigin =
      `${((event.clientX - box.left) / box.width) * 100}% ${((event.clientY - box.top) / box.height) * 100}%`;
  });
  element("image").addEventListener("click", KEYS.z);
  window.addEventListener("resize", () => drawScaleBar(data.tiles[tile]));
  window.addEventListener("beforeunload", (event) => { if (unsaved && !element("notice").hidden) event.preventDefault(); });
  restore();
  draw();
})();

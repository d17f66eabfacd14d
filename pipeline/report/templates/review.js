// The review page of a category: a grid of its regions, filters, marks, and the opened image.
//
// A region is a row of the columns in `regions`; a class is an index of `classes`, which holds the
// model's classes (index = number) and after them the names that only people gave. Text from the
// data enters the page as text nodes, never as HTML.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const read = (id) => JSON.parse($(id).textContent);
  const { category, run, classes, markers, regions, images } = read("data");
  const thumbnails = read("thumbnails");
  const everyRow = regions.id.map((_, row) => row);
  const rowOf = new Map(regions.id.map((id, row) => [id, row]));
  const grid = $("grid"), viewer = $("viewer"), filters = $("filters");

  const CHUNK = 240; // cards that enter the page at a time
  const QUESTIONS = 20; // regions of that view
  const EXTREMES = 6; // most and least typical regions shown of a class
  const STORAGE = `anomalyncd:${category}:${run}`;
  const SHAPES = { circle: "●", square: "■", triangle: "▲", diamond: "◆" };

  let pictures = null; // parsed when the first image is opened
  let marks = new Map(); // crop_id -> {class: number} | {name: text} | {wrong: true}
  let order = []; // rows that the filters leave, sorted
  let drawn = 0; // how many of them are in the page
  let here = 0; // position in `order` of the card that keys act on
  let opened = null; // row whose image is open
  const selected = new Set(); // rows

  // ---------------------------------------------------------------- small helpers

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function shape(tag, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  function classLabel(k) {
    const { number, name } = classes[k];
    if (number === null) return name;
    if (name !== null) return `${number} ${name}`;
    return number === 0 ? "0 normal" : `class ${number}`;
  }

  function marker(k) {
    const [colour, kind] = markers[k % markers.length];
    const element = make("i", { ariaHidden: "true" }, SHAPES[kind]);
    element.style.color = colour;
    return element;
  }

  // ---------------------------------------------------------------- marks

  /** Index of the class that a mark gives; a name that is new becomes a class. */
  function classOfMark(mark) {
    if ("class" in mark) return mark.class;
    const known = classes.findIndex((c) => c.number === null && c.name === mark.name);
    return known >= 0 ? known : classes.push({ number: null, name: mark.name }) - 1;
  }

  const markOfClass = (k) =>
    classes[k].number === null ? { name: classes[k].name } : { class: classes[k].number };

  function classOf(row) {
    const mark = marks.get(regions.id[row]);
    return mark && !mark.wrong ? classOfMark(mark) : regions.shown[row];
  }

  /** Is this a mark that says something else than the page does? Storage may hold anything. */
  function isMark(id, mark) {
    if (!rowOf.has(id) || mark === null || typeof mark !== "object") return false;
    if (mark.wrong === true) return true;
    if ("class" in mark) {
      if (!classes.some((c) => c.number !== null && c.number === mark.class)) return false;
    } else if (typeof mark.name !== "string" || cleaned(mark.name) !== mark.name || !mark.name) {
      return false;
    }
    return classOfMark(mark) !== regions.shown[rowOf.get(id)];
  }

  function loadMarks() {
    try {
      const entries = JSON.parse(localStorage.getItem(STORAGE) ?? "[]");
      marks = new Map(entries.filter(([id, mark]) => isMark(id, mark)));
    } catch {
      marks = new Map();
    }
  }

  function saveMarks() {
    try {
      localStorage.setItem(STORAGE, JSON.stringify([...marks]));
    } catch {
      $("unsaved").hidden = false;
    }
  }

  /** Mark rows; `null`, or the class that they are shown with, takes the mark back. */
  function mark(rows, what) {
    const known = classes.length;
    for (const row of rows) {
      const same = what && !what.wrong && classOfMark(what) === regions.shown[row];
      if (!what || same) marks.delete(regions.id[row]);
      else marks.set(regions.id[row], what);
      describeAll(row);
    }
    saveMarks();
    if (classes.length > known) fillClassLists();
    if (opened !== null) drawImage();
    showStatus();
  }

  function toggleWrong(rows) {
    const all = rows.every((row) => marks.get(regions.id[row])?.wrong);
    mark(rows, all ? null : { wrong: true });
  }

  /** A name as `anomalyncd correct` takes it: one line without invisible characters. */
  const cleaned = (text) => text.replace(/[\p{C}\p{Z}]+/gu, " ").trim();

  function give() {
    const rows = acting();
    const choice = $("give").value;
    if (choice !== "new") return choice === "" ? undefined : mark(rows, markOfClass(Number(choice)));
    const name = cleaned($("name").value);
    if (!name) return $("name").focus();
    const known = classes.findIndex((c, k) => c.name === name || (k === 0 && !c.name && name === "normal"));
    mark(rows, known >= 0 ? markOfClass(known) : { name });
    $("give").value = String(known >= 0 ? known : classes.length - 1);
    showNameField();
  }

  /** What `anomalyncd correct` reads. Regions that are wrong, but have no class yet, are left out. */
  function corrections() {
    const given = regions.id.filter((id) => marks.has(id) && !marks.get(id).wrong);
    return {
      category,
      run,
      corrections: given.map((id) => ({ crop_id: id, ...marks.get(id) })),
    };
  }

  function download() {
    const text = JSON.stringify(corrections(), null, 1) + "\n";
    const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    make("a", { href, download: `corrections-${category}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  // ---------------------------------------------------------------- filters and order

  function readFilters() {
    const values = Object.fromEntries(new FormData(filters));
    const bound = (name, otherwise) => (values[name] === "" ? otherwise : Number(values[name]));
    return {
      class: values.class,
      marks: values.marks,
      text: values.text.trim().toLowerCase(),
      confidence: [bound("confidenceFrom", -Infinity), bound("confidenceTo", Infinity)],
      area: [bound("areaFrom", -Infinity), bound("areaTo", Infinity)],
      order: values.order.split(" "),
    };
  }

  function fits(row, wanted) {
    const within = ([low, high], value) => low <= value && value <= high;
    const own = marks.get(regions.id[row]);
    const k = classOf(row);
    if (wanted.class === "defects" ? k === 0 : wanted.class !== "" && k !== Number(wanted.class)) return false;
    if (wanted.marks === "marked" && !own) return false;
    if (wanted.marks === "wrong" && !own?.wrong) return false;
    if (wanted.marks === "questions" && !(regions.ask?.[row] < QUESTIONS)) return false;
    if (wanted.marks === "corrected" && regions.shown[row] === regions.model[row]) return false;
    if (!within(wanted.confidence, regions.confidence[row])) return false;
    if (!within(wanted.area, regions.area[row])) return false;
    return images.path[regions.image[row]].toLowerCase().includes(wanted.text);
  }

  function applyFilters() {
    const wanted = readFilters();
    const [column, direction] = wanted.order;
    order = everyRow.filter((row) => fits(row, wanted));
    if (regions[column]) {
      const sign = direction === "up" ? 1 : -1;
      order.sort((a, b) => sign * (regions[column][a] - regions[column][b]) || a - b);
    }
    selected.clear();
    drawn = here = 0;
    grid.replaceChildren();
    drawMore();
    showStatus();
  }

  function fillClassLists() {
    const counts = classes.map(() => 0);
    for (const row of everyRow) counts[classOf(row)] += 1;
    const option = (value, text) => make("option", { value, textContent: text });
    const each = (text) => classes.map((_, k) => option(String(k), text(k)));
    const fill = (list, options) => {
      const value = list.value;
      list.replaceChildren(...options);
      list.value = value;
      if (list.selectedIndex < 0) list.selectedIndex = 0;
    };
    const counted = each((k) => `${classLabel(k)} (${counts[k]})`);
    fill(filters.elements.class, [option("", "all"), option("defects", "all but 0"), ...counted]);
    fill($("give"), [option("", "choose …"), ...each(classLabel), option("new", "a new name …")]);
  }

  // ---------------------------------------------------------------- cards

  /** Draws more cards when the end of the drawn ones comes near. */
  const bottom = new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && drawn < order.length && drawMore(),
    { rootMargin: "1200px" },
  );

  function describe(card, row) {
    const k = regions.shown[row], own = marks.get(regions.id[row]);
    const path = images.path[regions.image[row]];
    const badge = own ? (own.wrong ? "✗ wrong" : `→ ${classLabel(classOfMark(own))}`) : "";
    const before = k === regions.model[row] ? "" : `model: ${classLabel(regions.model[row])}`;
    const figures = [
      ["confidence", "conf.", regions.confidence[row].toFixed(2)],
      ["score", "score", regions.score[row].toFixed(2)],
      ["typicality", "typ.", regions.typicality[row].toFixed(2)],
      ["area in pixels", "", `${regions.area[row].toLocaleString("en")} px`],
      ...(regions.stands ? [["regions in its fine cluster", "", `${regions.stands[row]} alike`]] : []),
    ];
    card.replaceChildren(
      make("img", { src: thumbnails[row], alt: "", loading: "lazy", width: 112, height: 112 }),
      make("span", { className: "tick", ariaHidden: "true" }, selected.has(row) ? "✓" : ""),
      make("span", { className: "kind", title: classLabel(k) }, marker(k), classLabel(k)),
      ...(before ? [make("span", { className: "before", title: before }, before)] : []),
      make("span", { className: "figures" }, ...figures.map(([title, short, value]) => make("span", { title }, `${short} ${value}`.trim()))),
      make("span", { className: "soft", title: path }, path),
      ...(badge ? [make("span", { className: "badge", title: badge }, badge)] : []),
    );
    card.classList.toggle("wrong", own?.wrong === true);
    card.classList.toggle("marked", own !== undefined && !own.wrong);
    card.classList.toggle("selected", selected.has(row));
    card.ariaLabel = [classLabel(k), before, badge, ...figures.map(([name, , value]) => `${name} ${value}`), path].filter(Boolean).join(", ");
    if (card.role === "option") card.ariaSelected = String(selected.has(row));
  }

  /** A button in the strips and beside an open image; an option of the list in the grid. */
  function makeCard(row, inGrid = false) {
    const card = make(inGrid ? "div" : "button", { className: "card" });
    if (inGrid) card.role = "option";
    else card.type = "button";
    card.dataset.row = row;
    describe(card, row);
    return card;
  }

  function describeAll(row) {
    for (const card of document.querySelectorAll(`.card[data-row="${row}"]`)) describe(card, row);
  }

  function drawMore() {
    const end = Math.min(order.length, drawn + CHUNK);
    const cards = order.slice(drawn, end).map((row) => makeCard(row, true));
    cards.forEach((card, i) => (card.tabIndex = drawn + i === here ? 0 : -1));
    grid.append(...cards);
    drawn = end;
    bottom.unobserve($("sentinel")); // so that it reports again, even if the end is still in sight
    bottom.observe($("sentinel"));
    if (drawn > 0 && here < drawn) grid.children[here].classList.add("here");
  }

  /** Move the frame to a position of the list, drawing as far as that. */
  function moveTo(position, focus = true) {
    if (order.length === 0) return;
    const old = grid.children[here];
    here = Math.max(0, Math.min(order.length - 1, position));
    while (drawn <= here) drawMore();
    old?.classList.remove("here");
    if (old) old.tabIndex = -1;
    grid.children[here].classList.add("here");
    grid.children[here].tabIndex = 0;
    if (focus) grid.children[here].focus();
    showStatus();
  }

  function select(row) {
    if (!selected.delete(row)) selected.add(row);
    describeAll(row);
    showStatus();
  }

  function selectAll(rows) {
    const changed = new Set([...selected, ...rows]);
    selected.clear();
    for (const row of rows) selected.add(row);
    for (const row of changed) describeAll(row);
    showStatus();
  }

  /** Rows that marks are for: the open one, or the selected ones, or the one with the frame. */
  function acting() {
    if (opened !== null) return [opened];
    if (selected.size > 0) return [...selected];
    return order.length > 0 ? [order[here]] : [];
  }

  function showStatus() {
    const rows = acting();
    const wrong = [...marks.values()].filter((own) => own.wrong).length;
    const ready = marks.size - wrong;
    const all = everyRow.length.toLocaleString("en");
    $("count").textContent = `${order.length.toLocaleString("en")} of ${all} regions`;
    $("target").textContent =
      rows.length === 1 ? images.path[regions.image[rows[0]]] : `${rows.length} selected`;
    $("status").textContent =
      plural(ready, "correction") + (wrong ? `, ${wrong} wrong without a class (not in the file)` : "");
    $("download").disabled = ready === 0;
    $("discard").disabled = marks.size === 0;
    $("none").disabled = selected.size === 0;
    for (const id of ["wrong", "clear"]) $(id).disabled = rows.length === 0;
  }

  /** Draw the extremes of each class; `shown` classes, as the typicality is towards those. */
  function drawStrips() {
    const strips = classes.map((_, k) => {
      const rows = everyRow.filter((row) => regions.shown[row] === k);
      if (rows.length === 0) return "";
      rows.sort((a, b) => regions.typicality[b] - regions.typicality[a] || a - b);
      const show = make("button", { type: "button", textContent: "Show all" });
      show.addEventListener("click", () => {
        filters.elements.class.value = String(k);
        applyFilters();
        grid.scrollIntoView();
      });
      const head = make("p", {}, marker(k), make("strong", {}, classLabel(k)), ` (${rows.length})`);
      const row = (title, own) =>
        make("div", { className: "row" }, make("p", { className: "soft" }, title), ...own.map((r) => makeCard(r)));
      const least = rows.slice(EXTREMES).slice(-EXTREMES).reverse();
      const parts = [row("most typical", rows.slice(0, EXTREMES))];
      if (least.length) parts.push(row("least typical", least));
      return make("section", { className: "strip" }, make("div", {}, head, show), make("div", {}, ...parts));
    });
    $("strips").replaceChildren(...strips);
  }

  // ---------------------------------------------------------------- the open image

  function open(row) {
    opened = row;
    $("slot").append($("actions"));
    if (!viewer.open) {
      viewer.showModal();
      viewer.focus();
    }
    drawImage();
    showStatus();
  }

  function step(by) {
    const position = order.indexOf(opened) + by;
    if (position >= 0 && position < order.length) open(order[position]);
  }

  function closed() {
    const position = order.indexOf(opened);
    opened = null;
    $("bar").prepend($("actions"));
    if (position >= 0) moveTo(position);
    showStatus();
  }

  function drawImage() {
    pictures ??= read("pictures");
    const image = regions.image[opened];
    const own = everyRow.filter((row) => regions.image[row] === image);
    const merged = images.merged[image];
    $("title").textContent = images.path[image];
    $("merged").textContent = `image: ${merged < classes.length ? classLabel(merged) : merged} (model), ${plural(own.length, "region")}`;
    const position = order.indexOf(opened);
    $("previous").disabled = position <= 0;
    $("next").disabled = position < 0 || position === order.length - 1;
    $("own").replaceChildren(...own.map((row) => makeCard(row)));
    for (const card of $("own").children) card.classList.toggle("here", Number(card.dataset.row) === opened);
    $("own").querySelector(".here")?.scrollIntoView({ block: "nearest" });
    drawStage(image, own);
  }

  function drawStage(image, own) {
    const stage = $("stage"), picture = pictures[image];
    const width = images.width[image], height = images.height[image];
    if (!picture) {
      stage.removeAttribute("style");
      stage.replaceChildren(make("p", { className: "none" }, "The picture of this image is not in this page."));
      return;
    }
    const [photo, map, outline] = picture;
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.style.width = `min(100%, ${(68 * width) / height}vh)`;
    const overlay = make("img", { src: map, alt: "anomaly map", hidden: !$("showMap").checked });
    overlay.style.opacity = $("strength").value / 100;
    const lines = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    if ($("showOutline").checked) {
      for (const kind of ["halo", "line"]) lines.append(shape("path", { d: outline, class: kind }));
    }
    const tags = $("showRegions").checked ? own.map((row) => drawRegion(lines, row, width, height)) : [];
    stage.replaceChildren(make("img", { src: photo, alt: images.path[image] }), overlay, lines, ...tags);
  }

  /** Draw the square of a region into `lines`; return its tag. */
  function drawRegion(lines, row, width, height) {
    const [x0, y0, side] = regions.square[row];
    const left = Math.max(x0, 0), top = Math.max(y0, 0);
    const right = Math.min(x0 + side, width), bottom = Math.min(y0 + side, height);
    const k = classOf(row), chosen = row === opened ? "here" : "";
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    lines.append(shape("rect", { ...box, class: chosen, stroke: markers[k % markers.length][0] }));
    const wrong = marks.get(regions.id[row])?.wrong ? " ✗" : "";
    const tag = make("button", { type: "button", className: `tag ${chosen}` }, marker(k), classLabel(k) + wrong);
    if (left > 0.7 * width) tag.style.right = `${(100 * (width - right)) / width}%`;
    else tag.style.left = `${(100 * left) / width}%`;
    tag.style.top = `${(100 * top) / height}%`;
    tag.addEventListener("click", () => open(row));
    return tag;
  }

  // ---------------------------------------------------------------- keys and clicks

  const typing = (element) => element.matches("input:not([type=checkbox], [type=range]), select, textarea");

  function giveNewName() {
    $("give").value = "new";
    showNameField();
    $("name").focus();
  }

  function showNameField() {
    $("name").hidden = $("give").value !== "new";
  }

  /** Keys that work in the grid and on an open image; true if the key was one. */
  function markKey(key) {
    if (/^[0-9]$/.test(key) && classes[key]?.number === Number(key)) mark(acting(), markOfClass(Number(key)));
    else if (key === "x") toggleWrong(acting());
    else if (key === "u") mark(acting(), null);
    else if (key === "n") giveNewName();
    else return false;
    return true;
  }

  function imageKey(key) {
    const layer = { m: "showMap", o: "showOutline", r: "showRegions" }[key];
    if (layer) $(layer).click();
    else if (key === "ArrowLeft") step(-1);
    else if (key === "ArrowRight") step(1);
    else return false;
    return true;
  }

  function gridKey(key) {
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (key in steps) moveTo(here + steps[key]);
    else if (key === "Home") moveTo(0);
    else if (key === "End") moveTo(order.length - 1);
    else if (key === " ") select(order[here]);
    else if (key === "Enter") open(order[here]);
    else return false;
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const inGrid = grid.contains(event.target), free = inGrid || event.target === document.body;
    let done = false;
    if (opened !== null) done = (event.target.type !== "range" && imageKey(event.key)) || markKey(event.key);
    else if (event.key === "/") done = !filters.elements.text.focus();
    else done = (inGrid && gridKey(event.key)) || (free && markKey(event.key));
    if (done) event.preventDefault();
  });

  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    const row = Number(card.dataset.row);
    moveTo(order.indexOf(row));
    if (event.target.closest(".tick") || event.ctrlKey || event.metaKey) select(row);
    else open(row);
  });

  grid.addEventListener("focusin", (event) => {
    const position = order.indexOf(Number(event.target.dataset.row));
    if (position !== here) moveTo(position, false);
  });

  for (const id of ["strips", "own"]) {
    $(id).addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) open(Number(card.dataset.row));
    });
  }

  document.addEventListener("openregion", (event) => open(event.detail)); // from tree.js

  filters.addEventListener("input", applyFilters);
  filters.addEventListener("reset", () => setTimeout(applyFilters));
  filters.addEventListener("submit", (event) => event.preventDefault());
  $("questions").disabled = !regions.ask;
  $("questions").addEventListener("click", () => {
    filters.reset();
    filters.elements.marks.value = "questions";
    filters.elements.order.value = "ask up";
    setTimeout(() => (applyFilters(), moveTo(0)));
  });
  $("give").addEventListener("change", showNameField);
  $("giving").addEventListener("submit", (event) => {
    event.preventDefault();
    give();
  });
  $("wrong").addEventListener("click", () => toggleWrong(acting()));
  $("clear").addEventListener("click", () => mark(acting(), null));
  $("all").addEventListener("click", () => selectAll(order));
  $("none").addEventListener("click", () => selectAll([]));
  $("download").addEventListener("click", download);
  $("discard").addEventListener("click", () => {
    if (confirm(`Discard ${plural(marks.size, "mark")} of ${category}?`)) mark(everyRow, null);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", closed);
  for (const id of ["showMap", "showOutline", "showRegions", "strength"]) {
    $(id).addEventListener("input", drawImage);
  }
  $("typical").addEventListener("toggle", drawStrips, { once: true });

  // ---------------------------------------------------------------- start

  loadMarks();
  saveMarks();
  fillClassLists();
  $("command").textContent = `anomalyncd correct "${category}" "corrections-${category}.json"`;
  const asked = /^#class=(\d+)$/.exec(location.hash);
  if (asked && Number(asked[1]) < classes.length) filters.elements.class.value = asked[1];
  applyFilters();
})();

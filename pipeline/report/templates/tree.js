// The class tree of the review page: fine clusters in rows, the dendrogram beside them, and the
// choices (merge, split) that make classes of them, as `pipeline.clustering.class_choices` does.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const { category, run, classes, markers, tree } = JSON.parse($("data").textContent);
  if (!tree) return;

  const { owners, sizes, nodes, n } = tree; // owners: class numbers before any choice, out of n
  const STORAGE = `anomalyncd:choices:${category}:${run}`;
  const SHAPES = { circle: "●", square: "■", triangle: "▲", diamond: "◆" };
  const ROW = 66, WIDTH = 240, SHOWN = 12; // pixels, pixels, thumbnails of a row
  const nLeaves = owners.length, root = nLeaves + nodes.length - 1;
  const names = new Map(classes.filter((c) => c.number !== null && c.name !== null).map((c) => [c.number, c.name]));

  let choices = []; // {merge: [2, 5]} | {split: 3}
  let members = owners; // class of each leaf after the choices
  let here = 0; // position of the row with the frame
  const selected = new Set(); // class numbers
  let drawn = false;

  // ---------------------------------------------------------------- the classes

  const below = (node) => (node < nLeaves ? [node] : nodes[node - nLeaves].slice(0, 2).flatMap(below));
  const leavesOf = nodes.map((_, i) => new Set(below(nLeaves + i)));
  const under = (node) => (node < nLeaves ? new Set([node]) : leavesOf[node - nLeaves]);
  const regionsIn = (leaves) => leaves.reduce((sum, leaf) => sum + sizes[leaf], 0);
  const leavesNow = (of, k) => of.flatMap((own, leaf) => (own === k ? [leaf] : []));

  /** The two parts of leaves at the lowest node above all of them. */
  function divide(leaves) {
    for (let node = root; ; ) {
      const [left, right] = nodes[node - nLeaves];
      const first = leaves.filter((leaf) => under(left).has(leaf));
      if (first.length > 0 && first.length < leaves.length) {
        return [first, leaves.filter((leaf) => under(right).has(leaf))];
      }
      node = first.length ? left : right;
    }
  }

  /** Class of each leaf after choices; null if one of them is not possible. */
  function applied(list) {
    const now = [...owners];
    const founders = new Map(Array.from({ length: n }, (_, k) => [k, leavesNow(owners, k)]));
    for (const choice of list) {
      if ("merge" in choice) {
        const kinds = choice.merge;
        if (new Set(kinds).size < 2 || new Set(kinds).size < kinds.length || !kinds.every((k) => now.includes(k))) return null;
        const kept = kinds.includes(0) ? 0 : kinds[0];
        now.forEach((k, leaf) => kinds.includes(k) && (now[leaf] = kept));
        continue;
      }
      const own = leavesNow(now, choice.split);
      if (own.length < 2) return null;
      const parts = divide(own);
      const founded = parts.map((part) => part.filter((leaf) => founders.get(choice.split).includes(leaf)));
      const [a, b] = founded.map(regionsIn), [c, d] = founded.map((part) => part.length);
      const other = b > a || (b === a && d > c) ? parts[0] : parts[1];
      let number = founders.size, most = -1;
      for (const [k, leaves] of [...founders].sort((x, y) => x[0] - y[0])) {
        if (!leaves.length || now.includes(k) || !leaves.every((leaf) => other.includes(leaf)) || regionsIn(leaves) <= most) continue;
        [number, most] = [k, regionsIn(leaves)];
      }
      if (!founders.has(number)) founders.set(number, other);
      for (const leaf of other) now[leaf] = number;
    }
    return now;
  }

  const label = (k) => (names.has(k) ? `${k} ${names.get(k)}` : k === 0 ? "0 normal" : `class ${k}`);
  const size = (k) => regionsIn(leavesNow(members, k));
  const words = (choice) => ("merge" in choice ? `merge ${choice.merge.join(" ")}` : `split ${choice.split}`);

  /** The class, but for the normal one, whose lowest common node with class k is lowest. */
  function nearest(k) {
    const own = leavesNow(members, k);
    for (let i = 0; i < nodes.length; i++) {
      if (!own.every((leaf) => leavesOf[i].has(leaf))) continue;
      const others = [...leavesOf[i]].map((leaf) => members[leaf]).filter((other) => other !== k && other !== 0);
      if (others.length) return others[0];
    }
    return null;
  }

  // ---------------------------------------------------------------- choices

  function choose(choice) {
    const next = applied([...choices, choice]);
    if (!next) return say("split" in choice ? `${label(choice.split)} is one fine cluster: it cannot be split` : "Select two classes or more");
    choices.push(choice);
    selected.clear();
    changed();
  }

  function mergeSelected() {
    const k = members[order[here]];
    const kinds = new Set(selected);
    if (kinds.size < 2) kinds.add(k);
    if (kinds.size < 2) kinds.add(nearest(k));
    kinds.delete(null);
    const rank = (number) => (number === 0 ? -2 : names.has(number) ? -1 : 0);
    choose({ merge: [...kinds].sort((a, b) => rank(a) - rank(b) || a - b) });
  }

  const splitHere = () => choose({ split: members[order[here]] });

  function undo() {
    if (choices.length === 0) return say("Nothing to undo");
    choices.pop();
    selected.clear();
    changed();
  }

  function changed() {
    members = applied(choices);
    try {
      localStorage.setItem(STORAGE, JSON.stringify(choices));
    } catch {
      $("unsaved").hidden = false;
    }
    draw();
    say("");
  }

  function load() {
    choices = tree.choices.map((choice) => ({ ...choice }));
    try {
      const stored = JSON.parse(localStorage.getItem(STORAGE));
      if (Array.isArray(stored) && applied(stored)) choices = stored;
    } catch {
      // nothing stored, or of no use: those that were applied
    }
    members = applied(choices);
  }

  /** The file that `anomalyncd correct` reads, a line a choice. */
  function fileText() {
    const lines = choices.map((choice) => `  ${JSON.stringify(choice)}`).join(",\n");
    return `{"category": ${JSON.stringify(category)}, "run": ${JSON.stringify(run)},\n "choices": [\n${lines}\n]}\n`;
  }

  function download() {
    const href = URL.createObjectURL(new Blob([fileText()], { type: "application/json" }));
    const link = Object.assign(document.createElement("a"), { href, download: `choices-${category}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  // ---------------------------------------------------------------- drawing

  /** Leaves from top to bottom: of two children the one with more regions first. */
  const order = (function walk(node) {
    if (node < nLeaves) return sizes[node] > 0 ? [node] : [];
    const [a, b] = nodes[node - nLeaves];
    const [first, second] = regionsIn([...under(a)]) >= regionsIn([...under(b)]) ? [a, b] : [b, a];
    return [...walk(first), ...walk(second)];
  })(root);

  const colour = (k) => markers[k % markers.length][0];

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function draw() {
    if (!drawn) drawRows();
    order.forEach((leaf, i) => {
      const k = members[leaf], row = $("leaves").children[i];
      const marker = make("i", { ariaHidden: "true" }, SHAPES[markers[k % markers.length][1]]);
      marker.style.color = colour(k);
      row.firstChild.replaceChildren(marker, make("strong", {}, label(k)), ` ${sizes[leaf]} of ${size(k)}`);
      row.style.borderLeftColor = colour(k);
      row.classList.toggle("selected", selected.has(k));
      row.ariaSelected = String(selected.has(k));
      row.ariaLabel = `${label(k)}, fine cluster of ${sizes[leaf]} regions, class of ${size(k)}`;
      row.tabIndex = i === here ? 0 : -1;
      row.classList.toggle("here", i === here);
    });
    drawBranches();
    const pending = choices.length !== tree.choices.length || choices.some((choice, i) => words(choice) !== words(tree.choices[i]));
    $("treeText").textContent = fileText();
    $("treeDownload").disabled = !pending;
    $("treeUndo").disabled = choices.length === 0;
  }

  function drawRows() {
    drawn = true;
    const thumbnails = JSON.parse($("thumbnails").textContent);
    $("leaves").replaceChildren(
      ...order.map((leaf) => {
        const pictures = tree.regions[leaf].slice(0, SHOWN).map((region) => {
          const picture = make("img", { src: thumbnails[region], alt: "", loading: "lazy", width: 56, height: 56 });
          picture.dataset.region = region;
          return picture;
        });
        const row = make("div", { className: "leaf", role: "option" }, make("span", { className: "kind" }), ...pictures);
        row.style.height = `${ROW}px`;
        return row;
      }),
    );
  }

  function drawBranches() {
    const svg = $("branches");
    const highest = Math.max(...nodes.map((node) => node[2]), 1e-9);
    const place = new Map(order.map((leaf, i) => [leaf, { x: WIDTH - 4, y: (i + 0.5) * ROW }]));
    const lines = [];
    nodes.forEach(([a, b, height], i) => {
      const left = place.get(a), right = place.get(b), node = nLeaves + i;
      if (!left || !right) return void (place.set(node, left ?? right));
      const x = WIDTH - 10 - (WIDTH - 20) * Math.sqrt(height / highest);
      const kinds = new Set([...under(node)].map((leaf) => members[leaf]));
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${left.x} ${left.y}H${x}V${right.y}H${right.x}`);
      if (kinds.size === 1) path.style.stroke = colour([...kinds][0]);
      lines.push(path);
      place.set(node, { x, y: (left.y + right.y) / 2 });
    });
    svg.setAttribute("width", WIDTH);
    svg.setAttribute("height", order.length * ROW);
    svg.replaceChildren(...lines);
  }

  function say(text) {
    const now = [...new Set(members)].length;
    const list = choices.length ? `: ${choices.map(words).join(", ")}` : "";
    const left = $("treeDownload").disabled ? "" : " (not applied yet)";
    $("treeStatus").textContent = text || `${now} classes, ${choices.length} choice${choices.length === 1 ? "" : "s"}${list}${left}`;
  }

  // ---------------------------------------------------------------- keys and clicks

  function moveTo(position) {
    here = Math.max(0, Math.min(order.length - 1, position));
    draw();
    $("leaves").children[here].focus();
  }

  function select(k) {
    if (!selected.delete(k)) selected.add(k);
    draw();
    say(selected.size ? `selected: ${[...selected].map(label).join(", ")}` : "");
  }

  const openRegion = (region) => document.dispatchEvent(new CustomEvent("openregion", { detail: region }));

  const KEYS = {
    ArrowUp: () => moveTo(here - 1),
    ArrowDown: () => moveTo(here + 1),
    Home: () => moveTo(0),
    End: () => moveTo(order.length - 1),
    " ": () => select(members[order[here]]),
    Enter: () => openRegion(tree.regions[order[here]][0]),
    m: mergeSelected,
    s: splitHere,
    z: undo,
  };

  $("leaves").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    KEYS[event.key]();
    event.preventDefault();
  });
  $("leaves").addEventListener("click", (event) => {
    const row = event.target.closest(".leaf");
    if (!row) return;
    moveTo([...$("leaves").children].indexOf(row));
    if (event.target.dataset.region) openRegion(Number(event.target.dataset.region));
    else select(members[order[here]]);
  });
  $("treeMerge").addEventListener("click", mergeSelected);
  $("treeSplit").addEventListener("click", splitHere);
  $("treeUndo").addEventListener("click", undo);
  $("treeDownload").addEventListener("click", download);
  $("tree").addEventListener("toggle", () => $("tree").open && (draw(), say("")));
  $("treeCommand").textContent = `anomalyncd correct "${category}" "choices-${category}.json"`;
  load();
})();

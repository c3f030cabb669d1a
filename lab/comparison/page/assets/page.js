"use strict";
/* The page of a comparison. `data` comes embedded, or (live) from the server that serves this page. Curves lie in elements
   of their own, each read when its chart comes on screen. Charts are sketched at once and handed to plotly.js, which takes
   a second to start, as soon as that is there. Everything that is shown is set as text, never as markup. */
(() => {
  const COLOURS = ["#3b7ddd", "#e8862e", "#2ba36b", "#d64f6b", "#8a63d2", "#17a2b8", "#b8860b", "#d264b6", "#6b8e23", "#7f8c9b"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const UNITS = { env_steps: "environment steps", samples: "samples", seconds: "seconds of training" };
  const state = { axis: "steps", view: "groups", log: false, filter: "", metrics: {}, hidden: new Set(), theme: "auto", at: {}, fields: {} };
  const charts = new Map();      // element -> function that draws it
  const visible = new Set();     // chart elements on screen
  const stale = new Set();       // elements to draw when they come on screen
  let data = JSON.parse(document.getElementById("data").textContent);
  const live = data === null;
  const pointer = matchMedia("(hover: hover)");   // fingers scroll the page; a mouse zooms and hovers

  /* ------------------------------------------------------------ small tools */

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "style") for (const [name, set] of Object.entries(value)) node.style.setProperty(name, set);
      else if (key === "on") for (const [name, act] of Object.entries(value)) node.addEventListener(name, act);
      else if (key in node && key !== "list") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  function number(value, digits = 4) {
    if (value === null || value === undefined) return "—";
    if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
    return Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
  }

  const whole = (value) => (value === null || value === undefined ? "—" : Math.round(value).toLocaleString("en"));

  function seconds(value) {
    if (value === null || value === undefined) return "—";
    if (value < 100) return `${number(value, 3)} s`;
    return value < 6000 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
  }

  function numbers(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  let inks = {};                 // the theme's colours, read once a theme
  const ink = (name) => (inks[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  const colour = (index) => COLOURS[index % COLOURS.length];
  const dash = (index) => DASHES[Math.floor(index / COLOURS.length) % DASHES.length];
  const faint = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;

  /* ------------------------------------------------------------ what is shown */

  const key = (section, group) => `${section.title}|${section.metric}|${group.label}`;

  function matches(section, group) {
    const text = [section.title, section.metric, group.label, ...group.runs.map((id) => data.runs[id].name)].join(" ").toLowerCase();
    return state.filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  const shown = (section, group) => matches(section, group) && !state.hidden.has(key(section, group));

  const MANY = 12, FEW = 10, ROWS = 400;
  const seen = new Set();        // groups that were there before; of many groups only the best are shown at first
  function hideMost(section) {
    section.groups.forEach((group, index) => {
      const name = key(section, group);
      if (section.groups.length > MANY && index >= FEW && !seen.has(name)) state.hidden.add(name);
      seen.add(name);
    });
  }

  function show(section, count) {
    section.groups.forEach((group, index) => state.hidden[index < count ? "delete" : "add"](key(section, group)));
    refresh();
  }

  /* ------------------------------------------------------------ charts */

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        visible.add(entry.target);
        if (stale.delete(entry.target)) charts.get(entry.target)?.();
      } else visible.delete(entry.target);
    }
  }, { rootMargin: "200px" });

  function chart(draw, large = false) {
    const node = make("div", { className: large ? "chart large" : "chart" });
    charts.set(node, () => draw(node));
    stale.add(node);
    watcher.observe(node);
    return node;
  }

  function redraw() {
    for (const node of charts.keys()) {
      if (!node.isConnected) { watcher.unobserve(node); charts.delete(node); visible.delete(node); stale.delete(node); }
      else if (visible.has(node)) charts.get(node)();
      else stale.add(node);
    }
  }

  /* One chart a frame, so that the page answers meanwhile. */
  function redrawInTurn() {
    for (const node of charts.keys()) stale.add(node);
    const waiting = [...charts.keys()].filter((node) => visible.has(node));
    const next = () => {
      const node = waiting.shift();
      if (!node) return;
      if (stale.delete(node)) charts.get(node)?.();
      requestAnimationFrame(next);
    };
    next();
  }

  function layout(x, y, logarithmic) {
    const axis = { gridcolor: ink("--line"), zeroline: false, linecolor: ink("--line"), ticks: "", automargin: true };
    return {
      margin: { l: 44, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink("--soft"), size: 12, family: "system-ui, sans-serif" }, showlegend: false, hovermode: "closest", dragmode: pointer.matches ? "zoom" : false,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--soft"), activecolor: ink("--accent") },
      hoverlabel: { bgcolor: ink("--card"), bordercolor: ink("--line"), font: { color: ink("--ink") }, namelength: -1 },
      xaxis: { ...axis, title: { text: x, standoff: 6 }, rangemode: "tozero" },
      yaxis: { ...axis, title: { text: y, standoff: 6 }, type: logarithmic ? "log" : "linear" },
    };
  }

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function ticks(low, high, count = 5) {
    const rough = (high - low) / count || 1, size = 10 ** Math.floor(Math.log10(rough));
    const step = size * ([1, 2, 5].find((factor) => factor * size >= rough) ?? 10);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, at) => (first + at) * step);
  }

  const short = (value) => (Math.abs(value) >= 1e6 ? `${number(value / 1e6, 3)}M` : Math.abs(value) >= 1e4 ? `${number(value / 1e3, 3)}k` : number(value, 3));

  /* The same traces and layout as plotly.js takes, drawn once: lines, bands, two axes. */
  function sketch(node, traces, look) {
    const width = node.clientWidth, height = node.clientHeight, margin = { l: 52, r: 12, t: 8, b: 40 };
    const logarithmic = look.yaxis.type === "log", along = (value) => (logarithmic ? Math.log10(value) : value);
    let [left, right, low, high] = [look.xaxis.rangemode === "tozero" ? 0 : Infinity, -Infinity, Infinity, -Infinity];
    for (const { x, y } of traces) {
      for (let at = 0; at < x.length; at++) {
        const value = along(y[at]);
        if (!Number.isFinite(value)) continue;
        left = Math.min(left, x[at]); right = Math.max(right, x[at]); low = Math.min(low, value); high = Math.max(high, value);
      }
    }
    if (!(right >= left && high >= low)) return;
    if (look.yaxis.range) [low, high] = look.yaxis.range;
    else { const room = 0.055 * (high - low || Math.abs(high) || 1); low -= room; high += room; }
    const across = (value) => margin.l + ((value - left) / (right - left || 1)) * (width - margin.l - margin.r);
    const up = (value) => height - margin.b - ((value - low) / (high - low)) * (height - margin.t - margin.b);
    const text = (x, y, words, anchor) => svg("text", { x, y, fill: ink("--soft"), "font-size": 12, "text-anchor": anchor }, words);
    const parts = [];
    for (const at of ticks(low, high)) {
      parts.push(svg("line", { x1: margin.l, x2: width - margin.r, y1: up(at), y2: up(at), stroke: ink("--line") }), text(margin.l - 6, up(at) + 4, short(logarithmic ? 10 ** at : at), "end"));
    }
    for (const at of ticks(left, right, width < 500 ? 4 : 7)) {
      parts.push(svg("line", { x1: across(at), x2: across(at), y1: margin.t, y2: height - margin.b, stroke: ink("--line") }), text(across(at), height - margin.b + 16, short(at), "middle"));
    }
    parts.push(text(width / 2, height - 6, look.xaxis.title.text, "middle"));
    for (const note of look.annotations ?? []) parts.push(text(width - margin.r, margin.t + 12, note.text, "end"));
    for (const { x, y, fill, fillcolor, line, opacity, mode } of traces) {
      let path = "", pen = "M", before = null;
      for (let at = 0; at < x.length; at++) {
        const value = along(y[at]);
        if (!Number.isFinite(value)) { pen = "M"; continue; }
        const px = across(x[at]).toFixed(1), py = up(value).toFixed(1);
        path += line.shape === "hv" && pen === "L" ? `L${px} ${before}L${px} ${py}` : `${pen}${px} ${py}`;
        [pen, before] = ["L", py];
      }
      const dots = { dash: "9 4", dot: "3 3", dashdot: "9 3 3 3" }[line.dash];
      parts.push(svg("path", {
        d: mode === "markers" ? `${path}h0.01` : path, fill: fill ? fillcolor : "none", stroke: line.width ? line.color : "none", opacity: opacity ?? 1,
        "stroke-width": mode === "markers" ? 6 : line.width, "stroke-linecap": mode === "markers" ? "round" : "butt", "stroke-linejoin": "round", ...(dots ? { "stroke-dasharray": dots } : {}),
      }));
    }
    node.replaceChildren(svg("svg", { class: "sketch", width, height, role: "img" }, ...parts));
  }

  function plot(node, traces, look) {
    if (!window.Plotly) { sketch(node, traces, look); stale.add(node); return; }
    node.querySelector(".sketch")?.remove();
    const config = { responsive: true, displaylogo: false, displayModeBar: pointer.matches ? "hover" : false, modeBarButtons: [["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
    Plotly.react(node, traces, look, config);
  }

  function curveTraces(section, curves) {
    const traces = [];
    section.groups.forEach((group, index) => {
      if (!shown(section, group)) return;
      const line = { color: colour(index), width: 2, dash: dash(index) };
      const band = curves.bands[index];
      if (band && state.view === "groups") {
        const [x, middle, low, high] = band[state.axis].map(numbers);
        const back = Float32Array.from(x).reverse();
        traces.push({
          x: [...x, ...back], y: [...high, ...Float32Array.from(low).reverse()], fill: "toself", fillcolor: faint(colour(index), 0.18),
          line: { width: 0 }, mode: "lines", hoverinfo: "skip", type: "scatter",
        });
        traces.push({ x, y: middle, line, mode: "lines", name: group.label, type: "scatter" });
        return;
      }
      for (const id of group.runs) {
        if (!curves.runs[id]) continue;
        const [steps, times, values] = curves.runs[id].map(numbers);
        const single = group.runs.length === 1;
        traces.push({
          x: state.axis === "steps" ? steps : times, y: values, mode: values.length < 2 ? "markers" : "lines",
          line: { ...line, width: single ? 2 : 1.2 }, opacity: single ? 1 : 0.75, type: "scatter",
          marker: { color: colour(index) }, name: `${group.label} · seed ${data.runs[id].seed}`,
        });
      }
    });
    return traces;
  }

  const parsed = new Map();      // what the page brought with it, read when it is first asked for
  function embedded(name) {
    if (!parsed.has(name)) {
      const part = document.getElementById(name);
      const whole = part && (part.nextSibling || document.readyState !== "loading");
      if (!whole) return null;   // further down, or cut short, in a page that is still being read
      parsed.set(name, JSON.parse(part.textContent));
      part.remove();
    }
    return parsed.get(name);
  }

  const fetched = new Map();
  async function curvesOf(section, metric) {
    const index = data.sections.indexOf(section);
    if (!live) return embedded(`curves-${index}-${section.metrics.indexOf(metric)}`);
    const groups = section.groups.flatMap((group, at) => (shown(section, group) ? [at] : []));
    const address = `curves?section=${index}&metric=${encodeURIComponent(metric)}&groups=${groups}&version=${data.version}`;
    const name = `${index} ${metric}`;
    if (fetched.get(name)?.address !== address) {
      const answer = await fetch(address);
      if (!answer.ok) return null;
      fetched.set(name, { address, curves: await answer.json() });
    }
    return fetched.get(name).curves;
  }

  function drawCurves(section, metric, large) {
    return async (node) => {
      const curves = await curvesOf(section, metric);
      if (!curves) stale.add(node);
      if (!curves || !node.isConnected) return;
      const look = layout(large ? UNITS[state.axis === "steps" ? section.counter : "seconds"] : "", large ? metric : "", state.log);
      const traces = curveTraces(section, curves);
      if (state.log && traces.some(({ y }) => y.some((value) => value <= 0))) {
        look.yaxis.type = "linear";
        look.annotations = [{ text: "linear: there are values of 0 and below", xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right", yanchor: "top", showarrow: false }];
      }
      if (large && section.threshold !== null) {
        look.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: section.threshold, y1: section.threshold, line: { color: ink("--soft"), width: 1, dash: "dot" } }];
      }
      plot(node, traces, look);
    };
  }

  function drawProfile(section) {
    return (node) => {
      const x = numbers(section.profile.x);
      const traces = [];
      section.profile.shares.forEach((share, index) => {
        if (shown(section, section.groups[index])) {
          traces.push({ x, y: numbers(share), mode: "lines", type: "scatter", line: { color: colour(index), width: 2, dash: dash(index), shape: "hv" }, name: section.groups[index].label });
        }
      });
      const look = layout(section.metric, "share of runs that are better", false);
      look.yaxis.range = [-0.03, 1.03];
      look.xaxis.rangemode = "normal";
      plot(node, traces, look);
    };
  }

  /* ------------------------------------------------------------ the parts of a section */

  function whisker(row, lowest, highest, index) {
    const at = (value) => 4 + (142 * (value - lowest)) / (highest - lowest || 1);
    const node = svg("svg", { class: "whisker", role: "img" }, svg("line", { x1: 4, x2: 146, y1: 8, y2: 8, stroke: ink("--line"), "stroke-width": 1 }));
    if (row.iqm.low !== null) node.append(svg("line", { x1: at(row.iqm.low), x2: at(row.iqm.high), y1: 8, y2: 8, stroke: colour(index), "stroke-width": 5, "stroke-linecap": "round", opacity: 0.35 }));
    for (const value of row.values) node.append(svg("circle", { cx: at(value), cy: 8, r: 1.7, fill: colour(index), opacity: 0.7 }));
    node.append(svg("circle", { cx: at(row.iqm.value), cy: 8, r: 4, fill: colour(index) }));
    return node;
  }

  function range(estimate, digits) {
    if (!estimate) return "";
    const node = make("span", {}, make("span", { className: "value" }, number(estimate.value, digits)));
    if (estimate.low !== null) node.append(make("span", { className: "range" }, ` [${number(estimate.low, digits)}, ${number(estimate.high, digits)}]`));
    return node;
  }

  // The last part of a field's name, or of a kind or name the part that has it.
  function shortName(field) {
    const parts = field.split(".");
    return parts.at(["name", "kind"].includes(parts.at(-1)) && parts.length > 1 ? -2 : -1);
  }

  function labelOf(section, group, index) {
    const box = make("input", { type: "checkbox", checked: !state.hidden.has(key(section, group)), ariaLabel: `show ${group.label}` });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](key(section, group));
      refresh();
    });
    const chips = Object.entries(group.varied).map(([name, value]) => make("span", { className: "chip", title: name }, `${shortName(name)} `, make("b", {}, value)));
    const text = make("span", {}, group.recipe, chips.length ? make("br") : null, ...chips);
    return make("label", { className: "label", style: { "--colour": colour(index) } }, box, make("span", { className: "swatch", style: { "border-top-style": dash(index) === "solid" ? "solid" : "dashed" } }), text);
  }

  function summaryTable(section) {
    const measured = section.groups.filter((group) => group.row);
    const several = measured.some((group) => group.row.values.length > 1);
    const unit = section.counter === "env_steps" ? "steps" : section.counter;
    const ends = measured.flatMap(({ row }) => [row.iqm.value, ...row.values, row.iqm.low ?? row.iqm.value, row.iqm.high ?? row.iqm.value]);
    const [lowest, highest] = [Math.min(...ends), Math.max(...ends)];
    const threshold = section.threshold !== null;
    const heads = ["group", "runs", "", several ? "IQM [95 %]" : "value", ...(several ? ["mean", "median"] : []), "best",
      ...(several && measured.length > 1 ? ["P(first better)"] : []), ...(threshold ? [`reached ${number(section.threshold)}`, `${unit} to it`, "time to it"] : []), unit, "time", `${unit}/s`];
    const body = make("tbody");
    section.groups.forEach((group, index) => {
      if (!matches(section, group) || body.childElementCount >= ROWS) return;
      const { row } = group;
      const cells = [labelOf(section, group, index)];
      if (row) {
        cells.push(row.unmeasured ? `${row.values.length} of ${group.runs.length}` : group.runs.length, whisker(row, lowest, highest, index), range(row.iqm),
          ...(several ? [number(row.mean.value), number(row.median.value)] : []), number(row.best),
          ...(several && measured.length > 1 ? [range(row.probability_first_is_better, 2)] : []),
          ...(threshold ? [`${row.reached} of ${row.values.length}`, whole(row.steps_to_threshold), seconds(row.seconds_to_threshold)] : []),
          whole(row.steps), seconds(row.seconds), whole(row.steps_per_second));
      } else cells.push(group.runs.length, "not evaluated yet", ...heads.slice(3).map(() => ""));
      const classes = [index === 0 && measured.length > 1 ? "first" : "", shown(section, group) ? "" : "off"].join(" ").trim();
      body.append(make("tr", { className: classes }, ...cells.map((cell) => make("td", {}, cell))));
    });
    return make("div", { className: "scroll tall" }, make("table", { className: "summary" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))), body));
  }

  function runsTable(section) {
    const body = make("tbody");
    section.groups.forEach((group, index) => {
      if (!shown(section, group) || body.childElementCount >= ROWS) return;
      for (const id of group.runs) {
        const run = data.runs[id];
        const name = make("span", {}, make("span", { className: "swatch", style: { "--colour": colour(index) } }), " ", make("a", { href: run.link }, run.name));
        const cells = [name, run.seed, make("span", { className: `pill ${run.status}` }, run.status), number(run.last), number(run.best), whole(run.steps), seconds(run.seconds), whole(run.rate), run.machine ?? "—"];
        body.append(make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
      }
    });
    const heads = ["run", "seed", "status", "last", "best", section.counter === "env_steps" ? "steps" : section.counter, "time", "per second", "machine"];
    return make("div", { className: "scroll tall" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))), body));
  }

  function fieldsTable(section, everything) {
    const groups = section.groups.map((group, index) => [group, index]).filter(([group]) => shown(section, group));
    const rows = section.fields.filter((field) => everything || field.differs);
    const head = make("tr", {}, make("th", {}, "field"), ...groups.map(([group, index]) => make("th", {}, make("span", { className: "swatch", style: { "--colour": colour(index) } }), " ", group.label)));
    const body = rows.map((field) => make("tr", {}, make("td", {}, field.name), ...groups.map(([, index]) => {
      const value = field.values[index];
      return make("td", { className: value === null ? "absent" : field.differs ? "differs" : "" }, value ?? "—");
    })));
    return make("div", { className: "scroll tall" }, make("table", { className: "fields" }, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  function configCard(section) {
    const count = section.fields.filter((field) => field.differs).length;
    const open = state.fields[section.id] ?? false;
    const button = make("button", { ariaPressed: String(open), on: { click: () => { state.fields[section.id] = !open; refresh(); } } }, "all fields");
    const few = section.groups.length > 1 && count <= 12;
    return make("details", { className: "card", open: state.at[`${section.id} config`] ?? few, on: { toggle: (event) => { state.at[`${section.id} config`] = event.target.open; } } },
      make("summary", {}, section.groups.length > 1 ? `Configuration: ${count} of ${section.fields.length} fields differ` : `Configuration: ${section.fields.length} fields`),
      make("div", { className: "bar" }, button), fieldsTable(section, open || section.groups.length === 1));
  }

  function mediaCard(section) {
    const all = live ? data.media : embedded("media");
    if (!all) return null;
    const pictures = [], others = [];
    section.groups.forEach((group, index) => {
      if (!shown(section, group)) return;
      for (const id of group.runs) {
        const media = all[id];
        if (!media) continue;
        const who = () => [make("span", { className: "swatch", style: { "--colour": colour(index) } }), " ", `${group.label} · seed ${data.runs[id].seed}`];
        for (const [name, items] of Object.entries(media.pictures)) pictures.push({ name, items, who });
        for (const [name, source] of media.others) others.push({ name, source, who });
      }
    });
    if (!pictures.length && !others.length) return null;
    const gallery = make("div", { className: "gallery" });
    const sliding = pictures.map(({ name, items, who }) => {
      const picture = make("img", { alt: `${name}`, loading: "lazy", on: { load: (event) => event.target.classList.toggle("small", event.target.naturalWidth < 300) } });
      const step = make("span");
      gallery.append(make("figure", {}, picture, make("figcaption", {}, make("b", {}, name), " at ", step, make("br"), ...who())));
      return (share) => {
        const [count, source] = items[Math.round(share * (items.length - 1))];
        if (picture.src !== source) picture.src = source;
        step.textContent = whole(count);
      };
    });
    for (const { name, source, who } of others) {
      const video = /^data:video|\.(mp4|webm)$/.test(source);
      const shownAs = video ? make("video", { src: source, controls: true, loop: true, muted: true, playsInline: true }) : make("img", { src: source, alt: name });
      gallery.append(make("figure", {}, shownAs, make("figcaption", {}, make("b", {}, name), make("br"), ...who())));
    }
    const card = make("div", { className: "card media" }, make("h3", {}, "Pictures and videos"));
    if (pictures.some(({ items }) => items.length > 1)) {
      const slider = make("input", { type: "range", min: 0, max: 100, value: state.at[section.id] ?? 100, ariaLabel: "share of the training" });
      const move = () => { state.at[section.id] = Number(slider.value); sliding.forEach((set) => set(slider.value / 100)); };
      slider.addEventListener("input", move);
      let timer = null;
      const play = make("button", { on: { click: () => {
        if (timer) { clearInterval(timer); timer = null; play.textContent = "▶ play"; return; }
        if (Number(slider.value) >= 100) slider.value = 0;
        play.textContent = "❚❚ pause";
        timer = setInterval(() => {
          slider.value = Number(slider.value) + 4;
          move();
          if (Number(slider.value) >= 100 || !slider.isConnected) { clearInterval(timer); timer = null; play.textContent = "▶ play"; }
        }, 150);
      } } }, "▶ play");
      card.append(make("div", { className: "bar" }, play, make("span", { className: "note" }, "start"), slider, make("span", { className: "note" }, "end of training")));
      move();
    } else sliding.forEach((set) => set(1));
    card.append(gallery);
    return card;
  }

  /* Runs of a section of which something is known, one of them chosen. */
  function chosenRun(section, name, wanted, fill) {
    const runs = section.groups.flatMap((group, index) => (shown(section, group) ? group.runs.filter((id) => wanted(data.runs[id])).map((id) => ({ id, text: `${group.label} · seed ${data.runs[id].seed}`, index })) : []));
    if (!runs.length) return null;
    const at = `${section.id} ${name}`;
    const current = () => runs.find(({ id }) => id === state.at[at]) ?? runs[0];
    const select = make("select", { ariaLabel: `run of ${name}`, on: { change: (event) => { state.at[at] = event.target.value; fill(current().id); } } },
      ...runs.map(({ id, text }) => make("option", { value: id, selected: id === current().id }, text)));
    fill(current().id);
    return runs.length > 1 ? select : make("span", { className: "note" }, runs[0].text);
  }

  function classesCard(section) {
    const place = make("div", { className: "scroll tall" });
    const fill = (id) => {
      const rows = data.runs[id].classes, heads = Object.keys(rows[0][1]);
      place.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...["class", ...heads].map((head) => make("th", {}, head)))),
        make("tbody", {}, ...rows.map(([label, row]) => make("tr", {}, make("td", {}, label), ...heads.map((head) => make("td", {}, number(row[head], 3))))))));
    };
    const choice = chosenRun(section, "classes", (run) => run.classes.length, fill);
    if (!choice) return null;
    return make("div", { className: "card classes" }, make("h3", {}, "Each class"), make("div", { className: "bar" }, choice), place,
      make("p", { className: "note" }, "Of the validation split, at the last evaluation. Where there are more than 40, those that went worst; lab evaluate RUN measures the test split."));
  }

  async function layersOf(id) {
    if (!live) return embedded("layers")?.[id] ?? {};
    const answer = await fetch(`layers?run=${encodeURIComponent(id)}`);
    return answer.ok ? answer.json() : {};
  }

  /* Shares of numbers in bins (upwards) at each evaluation (to the right): the darker, the more. */
  function heatmap(name, { steps, low, high, bins, shares }, counter) {
    const values = Uint8Array.from(atob(shares), (character) => character.charCodeAt(0));
    const canvas = make("canvas", { width: steps.length, height: bins, role: "img", ariaLabel: `histograms of ${name}` });
    const pen = canvas.getContext("2d"), image = pen.createImageData(steps.length, bins);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(COLOURS[0].slice(at, at + 2), 16));
    values.forEach((value, index) => {
      const [at, bin] = [Math.floor(index / bins), index % bins];
      image.data.set([red, green, blue, value], 4 * ((bins - 1 - bin) * steps.length + at));
    });
    pen.putImageData(image, 0, 0);
    return make("figure", { className: "heatmap" }, make("div", { className: "scale" }, make("span", {}, number(high, 3)), canvas, make("span", {}, number(low, 3))),
      make("figcaption", {}, make("b", {}, name), ` ${short(steps[0])} to ${short(steps[steps.length - 1])} ${counter === "env_steps" ? "steps" : counter}`));
  }

  const KINDS = ["weights", "activations", "gradients"];
  function layersCard(section) {
    const gallery = make("div", { className: "gallery" }), at = `${section.id} kind`;
    let asked = null;
    const fill = async (id) => {
      asked = id;
      const layers = await layersOf(id), kind = state.at[at] ?? KINDS[0];
      if (asked !== id) return;
      const figures = Object.entries(layers).filter(([name]) => name.startsWith(`${kind}/`)).map(([name, layer]) => heatmap(name.slice(kind.length + 1), layer, section.counter));
      gallery.replaceChildren(...(figures.length ? figures : [make("p", { className: "note" }, "There are none.")]));
    };
    const choice = chosenRun(section, "layers", (run) => run.layers, fill);
    if (!choice) return null;
    const buttons = KINDS.map((kind) => make("button", { ariaPressed: String((state.at[at] ?? KINDS[0]) === kind), on: { click: () => {
      state.at[at] = kind;
      buttons.forEach((button, index) => { button.ariaPressed = String(KINDS[index] === kind); });
      fill(asked);
    } } }, kind));
    return make("div", { className: "card layers" }, make("h3", {}, "Layers"), make("div", { className: "bar" }, make("div", { className: "segments", role: "group" }, ...buttons), choice), gallery,
      make("p", { className: "note" }, "How weights, outputs and gradients of each layer are spread (upwards), from evaluation to evaluation (to the right)."));
  }

  const SYSTEM = "system/", DIAGNOSTICS = "diagnostics/";
  function metricsCard(section, title, names, constants) {
    if (!names.length && !constants.length) return null;
    const name = `${section.id} ${title}`;
    const grid = make("div", { className: "many" });
    const fill = () => {
      const words = (state.metrics[name] ?? "").toLowerCase().split(/\s+/);
      grid.replaceChildren(...names.filter((name) => words.every((word) => name.toLowerCase().includes(word)))
        .map((name) => make("div", { className: "card" }, make("h3", {}, name), chart(drawCurves(section, name, false)))));
    };
    fill();
    const search = make("input", { type: "search", placeholder: "filter metrics", value: state.metrics[name] ?? "", ariaLabel: "filter metrics", on: { input: (event) => { state.metrics[name] = event.target.value; fill(); } } });
    return make("details", { className: "card", open: state.at[name] ?? true, on: { toggle: (event) => { state.at[name] = event.target.open; } } },
      make("summary", {}, `${title} (${names.length})`), make("div", { className: "bar" }, search), grid,
      constants.length ? make("p", { className: "note" }, `Constant: ${constants.map(([name, value]) => `${name} ${number(value)}`).join(", ")}.`) : null);
  }

  /* ------------------------------------------------------------ the page */

  function overview() {
    const rows = data.sections.map((section) => {
      const first = section.groups.find((group) => group.row);
      const cells = [make("a", { href: `#${section.id}` }, section.title), section.metric, section.groups.length, section.groups.reduce((sum, group) => sum + group.runs.length, 0), first ? first.label : "not evaluated yet", first ? range(first.row.iqm) : ""];
      return make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
    });
    const heads = ["task", "metric", "groups", "runs", "best group", "its value"];
    return make("div", { className: "card", id: "overview" }, make("div", { className: "scroll" }, make("table", { className: "overview" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))), make("tbody", {}, ...rows))));
  }

  const parts = new Map();       // section id -> functions that renew what depends on the toggles

  function sectionNode(section) {
    hideMost(section);
    const summary = make("div", { className: "card" });
    const media = make("div"), classes = make("div"), layers = make("div"), config = make("div"), runs = make("div");
    const renew = () => {
      node.classList.toggle("hidden", !section.groups.some((group) => matches(section, group)));
      const direction = section.mode === "max" ? "higher is better" : "lower is better";
      const explained = `${section.at === "last" ? "Last value" : "Best value"} of each run; ${direction}. IQM: interquartile mean over ${section.across ? "runs and tasks" : "seeds"}, with a stratified bootstrap 95 % interval.`;
      const choices = [["best 10", FEW], ["all", Infinity], ["none", 0]].map(([text, count]) => make("button", { on: { click: () => show(section, count) } }, text));
      const bar = section.groups.length > MANY ? make("div", { className: "bar" }, make("span", { className: "note" }, `${section.groups.length} groups; show`), ...choices) : "";
      summary.replaceChildren(bar, summaryTable(section), make("p", { className: "note" }, explained));
      if (section.across) return;
      media.replaceChildren(mediaCard(section) ?? "");
      classes.replaceChildren(classesCard(section) ?? "");
      layers.replaceChildren(layersCard(section) ?? "");
      config.replaceChildren(configCard(section));
      runs.replaceChildren(make("details", { className: "card", open: state.at[`${section.id} runs`] ?? true, on: { toggle: (event) => { state.at[`${section.id} runs`] = event.target.open; } } },
        make("summary", {}, `Runs (${section.groups.reduce((sum, group) => sum + group.runs.length, 0)})`), runsTable(section)));
    };
    const profiled = section.groups.filter((group) => group.row).reduce((sum, group) => sum + group.row.values.length, 0) > 2;
    const profile = () => make("div", { className: "card" }, make("h3", {}, "Performance profile"), chart(drawProfile(section), true));
    const main = () => make("div", { className: "card" }, make("h3", {}, "Learning curve"), chart(drawCurves(section, section.metric, true), true));
    const curves = section.across ? profile() : profiled ? make("div", { className: "two" }, main(), profile()) : main();
    const node = make("section", { id: section.id }, make("h2", {}, section.title, " ", make("small", {}, section.metric)), summary, curves, classes, media);
    const card = (title, wanted) => metricsCard(section, title, section.metrics.slice(1).filter(wanted), Object.entries(section.constants).filter(([name]) => wanted(name))) ?? "";
    const metrics = card("All metrics", (name) => !name.startsWith(SYSTEM) && !name.startsWith(DIAGNOSTICS));
    node.append(metrics, card("Diagnostics", (name) => name.startsWith(DIAGNOSTICS)), layers, config, runs, card("System use", (name) => name.startsWith(SYSTEM)));
    parts.set(section.id, renew);
    renew();
    return node;
  }

  function refresh() {
    parts.forEach((renew) => renew());
    redraw();
  }

  function segments(name, choices) {
    const buttons = Object.entries(choices).map(([value, text]) => {
      const button = make("button", { ariaPressed: String(state[name] === value), "data-choice": value }, text);
      button.addEventListener("click", () => {
        state[name] = value;
        buttons.forEach((other) => { other.ariaPressed = String(other === button); });
        redraw();
      });
      return button;
    });
    return make("div", { className: "segments", role: "group" }, ...buttons);
  }

  const system = matchMedia("(prefers-color-scheme: dark)");
  function setTheme() {
    document.documentElement.dataset.theme = state.theme === "auto" ? (system.matches ? "dark" : "light") : state.theme;
    inks = {};
    if (data) refresh();
  }
  system.addEventListener("change", setTheme);

  function head() {
    const log = make("button", { ariaPressed: "false", on: { click: () => { state.log = !state.log; log.ariaPressed = String(state.log); redraw(); } } }, "log scale");
    const theme = make("button", { title: "light or dark", ariaLabel: "light or dark", on: { click: () => { state.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; setTheme(); } } }, "◐");
    const search = make("input", { type: "search", id: "filter", placeholder: "filter groups and runs", ariaLabel: "filter groups and runs", value: state.filter, on: { input: (event) => { state.filter = event.target.value.trim(); refresh(); } } });
    const about = make("span", { className: "about", id: "about" });
    document.getElementById("top").replaceChildren(
      make("div", { className: "head" }, make("h1", {}, data.title), about),
      make("div", { className: "controls" }, segments("axis", { steps: "steps", seconds: "wall time" }), segments("view", { groups: "groups", runs: "each run" }), log, theme, search),
      make("nav", { id: "nav" }));
  }

  function fillHead() {
    const runs = Object.values(data.runs), groups = data.sections.reduce((sum, section) => sum + section.groups.length, 0);
    const running = runs.filter((run) => run.status === "running").length;
    const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
    document.getElementById("about").textContent = `${plural(runs.length, "run")} in ${plural(groups, "group")}${running ? `, ${running} running` : ""} · ${data.created}`;
    document.getElementById("nav").replaceChildren(...(data.sections.length > 1 ? data.sections.map((section) => make("a", { href: `#${section.id}` }, `${section.title} · ${section.metric}`)) : []));
  }

  function render() {
    const y = scrollY;
    fillHead();
    parts.clear();
    document.getElementById("main").replaceChildren(...(data.sections.length > 1 ? [overview()] : []), ...(data.sections.length ? data.sections.map(sectionNode) : [make("p", { className: "card" }, "There are no runs yet. They appear here as soon as they start.")]));
    redraw();
    scrollTo(0, y);
  }

  async function poll() {
    try {
      const answer = await fetch(`data?version=${data ? data.version : ""}`);
      if (answer.status === 200) {
        const first = data === null;
        data = await answer.json();
        if (first) head();
        render();
      }
      document.body.classList.remove("lost");
    } catch {
      document.body.classList.add("lost");
      const about = document.getElementById("about");
      if (about) about.textContent = "the board does not answer; waiting for it";
    }
    setTimeout(poll, 2000);
  }

  /* Tables and sketches are on the screen before plotly.js, megabytes long, is run; as a file it is compiled aside. */
  addEventListener("DOMContentLoaded", () => {
    if (data) (embedded("media") ? refresh : redraw)();
    requestAnimationFrame(() => setTimeout(() => {
      const source = document.getElementById("plotly");
      const address = URL.createObjectURL(new Blob([source.textContent], { type: "text/javascript" }));
      source.remove();
      document.head.append(make("script", { src: address, on: { load: () => { URL.revokeObjectURL(address); redrawInTurn(); } } }));
    }));
  });

  setTheme();
  if (live) poll();
  else {
    document.title = data.title;
    head();
    render();
  }
})();

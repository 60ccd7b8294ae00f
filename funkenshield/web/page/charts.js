// Charts of the last hour, as SVG: areas upon each other, or lines. They know samples, a scale and a place, and nothing of DNS.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46, BOTTOM = 20, TOP = 8;
const GAP = 20; // seconds between two samples, from which on a line is broken
const STEPS = [60, 120, 300, 600, 1200, 3600]; // seconds between two times at the bottom
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const precise = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function shape(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Return a round number that is at least so large.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * 0.999) * power;
}

export class Chart {
  // `series`: [name, label]; `format` makes a number readable; `kind` is "areas" or "lines", the latter with a
  // logarithmic scale from `least` on.
  constructor(place, { series, format, kind, least = 1 }) {
    Object.assign(this, { series, format, kind, least, samples: [], cursor: null });
    this.svg = shape("svg", { role: "img" });
    this.legend = document.createElement("div");
    this.legend.className = "legend";
    this.values = series.map(([name, label]) => {
      const entry = document.createElement("span");
      const value = document.createElement("b");
      entry.className = name;
      entry.append(label, " ", value);
      this.legend.append(entry);
      return value;
    });
    place.append(this.svg, this.legend);
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerdown", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
  }

  // Show samples of so many seconds until now.
  show(samples, now, seconds) {
    Object.assign(this, { samples, now, seconds });
    this.draw();
  }

  point(x) {
    this.cursor = x;
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !this.now) return;
    this.width = width;
    this.bottom = height - BOTTOM;
    const first = this.now - this.seconds;
    const shown = this.samples.filter((sample) => sample.time >= first);
    const x = (time) => LEFT + ((time - first) / this.seconds) * (width - LEFT);
    this.svg.replaceChildren();
    this.drawTimes(x, first);
    const y = this.kind === "areas" ? this.linear(shown) : this.logarithmic(shown);
    this.kind === "areas" ? this.drawAreas(shown, x, y) : this.drawLines(shown, x, y);
    this.tell(shown, x);
    const latest = shown.at(-1);
    const told = latest ? this.series.map(([name, label]) => `${label} ${this.format(latest[name])}`).join(", ") : "";
    this.svg.setAttribute("aria-label", `Last values: ${told || "none"}`);
  }

  drawTimes(x, first) {
    const most = this.width < 480 ? 3 : 7;
    const step = STEPS.find((each) => this.seconds / each <= most);
    for (let time = Math.ceil(first / step) * step; time <= this.now; time += step) {
      const at = x(time);
      if (at < LEFT + 14 || at > this.width - 16) continue;
      this.svg.append(shape("text", { x: at, y: this.bottom + 15, "text-anchor": "middle" }, clock.format(time * 1000)));
    }
  }

  drawGrid(value, at) {
    this.svg.append(
      shape("line", { class: "grid", x1: LEFT, x2: this.width, y1: at, y2: at }),
      shape("text", { x: LEFT - 7, y: at + 4, "text-anchor": "end" }, this.format(value)),
    );
  }

  linear(shown) {
    const sums = shown.map((sample) => this.series.reduce((sum, [name]) => sum + (sample[name] ?? 0), 0));
    const most = Math.max(1, ...sums);
    const step = roundUp(most / (this.bottom > 150 ? 4 : 2));
    const top = step * Math.ceil(most / step - 0.001);
    const y = (value) => this.bottom - (value / top) * (this.bottom - TOP);
    for (let value = 0; value <= top * 1.001; value += step) this.drawGrid(value, y(value));
    return y;
  }

  logarithmic(shown) {
    const values = shown.flatMap((sample) => this.series.map(([name]) => sample[name])).filter((value) => value > 0);
    const low = 10 ** Math.floor(Math.log10(Math.max(this.least, Math.min(this.least * 10, ...values))));
    const high = 10 ** Math.ceil(Math.log10(Math.max(low * 100, ...values) * 0.999));
    const span = Math.log10(high / low);
    const y = (value) => this.bottom - (Math.max(0, Math.log10(value / low)) / span) * (this.bottom - TOP);
    for (let value = low; value <= high * 1.01; value *= 10) this.drawGrid(value, y(value));
    return y;
  }

  // Return stretches of samples without a gap, or a value that is missing.
  stretches(shown, has = () => true) {
    const found = [];
    let before = null;
    for (const sample of shown) {
      if (!has(sample)) {
        before = null;
        continue;
      }
      if (before === null || sample.time - before > GAP) found.push([]);
      found.at(-1).push(sample);
      before = sample.time;
    }
    return found;
  }

  drawAreas(shown, x, y) {
    const bases = new Map(shown.map((sample) => [sample, 0]));
    for (const [name] of this.series) {
      const path = this.stretches(shown).map((stretch) => {
        const lower = stretch.map((sample) => `${x(sample.time).toFixed(1)},${y(bases.get(sample)).toFixed(1)}`);
        const upper = stretch.map((sample) => {
          bases.set(sample, bases.get(sample) + (sample[name] ?? 0));
          return `${x(sample.time).toFixed(1)},${y(bases.get(sample)).toFixed(1)}`;
        });
        return `M${upper.join("L")}L${lower.reverse().join("L")}Z`;
      });
      this.svg.append(shape("path", { class: `area ${name}`, d: path.join("") }));
    }
  }

  drawLines(shown, x, y) {
    let drawn = false;
    for (const [name] of this.series.toReversed()) {
      const path = this.stretches(shown, (sample) => sample[name] > 0).map((stretch) => {
        const points = stretch.map((sample) => `${x(sample.time).toFixed(1)},${y(sample[name]).toFixed(1)}`);
        return `M${points.join("L")}${points.length === 1 ? "h.1" : ""}`;
      });
      drawn ||= path.length > 0;
      this.svg.append(shape("path", { class: `line ${name}`, d: path.join("") }));
    }
    if (!drawn) {
      const place = { class: "none", x: (LEFT + this.width) / 2, y: this.bottom * 0.75 + TOP, "text-anchor": "middle" };
      this.svg.append(shape("text", place, "no query had to be forwarded"));
    }
  }

  // Tell the values at the cursor, or the latest ones.
  tell(shown, x) {
    let sample = shown.at(-1);
    if (this.cursor !== null && sample) {
      const distance = (each) => Math.abs(x(each.time) - this.cursor);
      sample = shown.reduce((best, each) => (distance(each) < distance(best) ? each : best));
      const at = x(sample.time);
      const side = at > this.width / 2 ? -1 : 1;
      const place = { class: "at", x: at + 6 * side, y: TOP + 6, "text-anchor": side < 0 ? "end" : "start" };
      this.svg.append(
        shape("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: this.bottom }),
        shape("text", place, precise.format(sample.time * 1000)),
      );
    }
    this.series.forEach(([name], number) => {
      this.values[number].textContent = sample ? this.format(sample[name]) : "";
    });
  }
}

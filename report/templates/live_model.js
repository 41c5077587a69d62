"use strict";
// The model in a worker: text to tokens, GPT-2, the head. Nothing here touches the page, and nothing asks a network.

// What data/rules.py does to a text, in its order.
class Reader {
  constructor(t) {
    this.t = t;
    const set = [...t.spaces].map((sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0")).join("");
    const breaks = new RegExp(` ?(?:<[${set}]*br[${set}]*(?:/[${set}]*>?|>)[${set}]*)+`, "gi");
    const ends = new RegExp(`^[${set}]+|[${set}]+$`, "g");
    this.rules = {
      "unquote-again": (s) => {
        const inner = s.slice(1, -1);
        const twice = s.length > 1 && s[0] === '"' && s.endsWith('"') && inner.includes('""') &&
          !inner.replaceAll('""', "").includes('"');
        return twice ? inner.replaceAll('""', '"') : s;
      },
      "control-characters": (s) => s.replace(/[\x80-\x9f]/g, (sign) => t.c1[sign.charCodeAt(0) - 0x80]),
      "break-tags": (s) => s.replace(breaks, " "),
      "strip": (s) => s.replace(ends, ""),
    };
    this.steps = t.normalizers.map(([kind, pattern, content]) => {
      if (kind === "Lowercase") return (s) => Array.from(s, (sign) => sign.toLowerCase()).join("");
      if (kind !== "replace") return (s) => s.normalize(kind);
      const expression = new RegExp(pattern, "gu");
      return (s) => s.replace(expression, () => content);
    });
    this.splits = t.splits.map(({ pattern, keep, prefix }) => {
      if (prefix) return (s) => [s.startsWith(" ") ? s : " " + s];
      const expression = new RegExp(pattern, "gu");
      return (s) => {
        const pieces = [];
        let end = 0;
        for (const match of s.matchAll(expression)) {
          if (keep !== "matches") pieces.push(s.slice(end, match.index));
          if (keep !== "gaps") pieces.push(match[0]);
          end = match.index + match[0].length;
        }
        if (keep !== "matches") pieces.push(s.slice(end));
        return pieces;
      };
    });

    // GPT-2 writes each byte as a letter that can be seen: those that are letters already, the others from U+0100 on.
    const letters = [];
    for (let byte = 0, next = 256; byte < 256; byte++) {
      const seen = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
      letters.push(String.fromCharCode(seen ? byte : next++));
    }
    this.byteOf = new Map(letters.map((letter, byte) => [letter, byte]));
    const idOf = new Map(t.names.map((name, id) => [name, id]));
    this.ids = letters.map((letter) => idOf.get(letter));
    this.merges = new Map();
    for (let i = 0; i < t.merges.length; i += 3) {
      this.merges.set(t.merges[i] * t.names.length + t.merges[i + 1], { rank: i, id: t.merges[i + 2] });
    }
    this.known = new Map();
  }

  // Text -> {ids, words: [{text, first, end}], tokens: how many there were before cutting}; end is behind the last.
  read(text) {
    let s = text.replace(/\p{Surrogate}/gu, "\ufffd");
    for (const [name, rule] of Object.entries(this.rules)) if (this.t.rules.includes(name)) s = rule(s);
    if (this.t.lowercase) s = s.toLowerCase();
    for (const step of this.steps) s = step(s);
    let pieces = [s];
    for (const split of this.splits) pieces = pieces.filter((piece) => piece).flatMap(split);

    const all = [], words = [];
    for (const piece of pieces.filter((piece) => piece)) {
      const ids = this.encode(piece);
      if (ids.length) words.push({ text: piece.trim(), first: all.length, end: all.length + ids.length });
      for (const id of ids) all.push(id);
    }
    const cut = this.t.keepEnd ? Math.max(0, all.length - this.t.maxLength) : 0;
    const ids = all.slice(cut, cut + this.t.maxLength);
    const kept = words.map((word) => ({ text: word.text, first: Math.max(0, word.first - cut),
      end: Math.min(ids.length, word.end - cut) })).filter((word) => word.first < word.end);
    return { ids: ids.length ? ids : [this.t.padId], words: kept, tokens: all.length };
  }

  // Byte-pair encoding: of all pairs of neighbours, merge those that were merged first in training; again until none is.
  encode(piece) {
    if (this.known.has(piece)) return this.known.get(piece);
    let ids = Array.from(new TextEncoder().encode(piece), (byte) => this.ids[byte]).filter((id) => id !== undefined);
    for (;;) {
      let best = null, key = 0;
      for (let i = 0; i + 1 < ids.length; i++) {
        const pair = ids[i] * this.t.names.length + ids[i + 1], merge = this.merges.get(pair);
        if (merge && (!best || merge.rank < best.rank)) { best = merge; key = pair; }
      }
      if (!best) break;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        if (i + 1 < ids.length && ids[i] * this.t.names.length + ids[i + 1] === key) { merged.push(best.id); i++; }
        else merged.push(ids[i]);
      }
      ids = merged;
    }
    if (this.known.size < 20000) this.known.set(piece, ids);
    return ids;
  }

  // A token as a person reads it; bytes that are no letter alone become a mark.
  nameOf(id) {
    const name = id === this.t.padId ? " (end of the text)" : this.t.names[id];
    if (id === this.t.padId || [...name].some((letter) => !this.byteOf.has(letter))) return name;
    return new TextDecoder().decode(Uint8Array.from(name, (letter) => this.byteOf.get(letter)));
  }
}

// y [n, outputs] = x [n, inputs] w' + b, four rows and two outputs at a time, so that each number is loaded less often.
function linear(y, x, n, w, b, inputs, outputs) {
  for (let i = 0; i < n; i += 4) {
    const x0 = i * inputs, x1 = Math.min(i + 1, n - 1) * inputs, x2 = Math.min(i + 2, n - 1) * inputs,
      x3 = Math.min(i + 3, n - 1) * inputs;
    for (let o = 0; o < outputs; o += 2) {
      const w0 = o * inputs, w1 = Math.min(o + 1, outputs - 1) * inputs;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      for (let c = 0; c < inputs; c++) {
        const u = w[w0 + c], v = w[w1 + c], a0 = x[x0 + c], a1 = x[x1 + c], a2 = x[x2 + c], a3 = x[x3 + c];
        s0 += u * a0; s1 += u * a1; s2 += u * a2; s3 += u * a3;
        t0 += v * a0; t1 += v * a1; t2 += v * a2; t3 += v * a3;
      }
      const sums = i + 4 <= n ? 4 : n - i, s = [s0, s1, s2, s3], t = [t0, t1, t2, t3];
      for (let r = 0; r < sums; r++) {
        y[(i + r) * outputs + o] = s[r] + b[o];
        if (o + 1 < outputs) y[(i + r) * outputs + o + 1] = t[r] + b[o + 1];
      }
    }
  }
}

function softmax(x) {
  const top = x.reduce((a, b) => Math.max(a, b), -Infinity), e = Array.from(x, (value) => Math.exp(value - top));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

// Abramowitz and Stegun 7.1.26: right to 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t *
    Math.exp(-x * x);
  return Math.sign(x) * y;
}
const GELU = {
  tanh: (x) => 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))),
  none: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
};

class GPT2 {
  constructor(shape, weights) {
    Object.assign(this, shape); // C, inner, nh, layers, eps, gelu, positions
    this.w = weights;
  }

  // What is kept of each token: query, key and value of each layer, and its vector after the final norm.
  cache(length) {
    const C = this.C, layer = () => ({ q: new Float32Array(length * C), k: new Float32Array(length * C),
      v: new Float32Array(length * C) });
    return { ids: [], layers: Array.from({ length: this.layers }, layer), hidden: new Float32Array(length * C) };
  }

  norm(x, n, name) {
    const C = this.C, w = this.w[name + ".weight"], b = this.w[name + ".bias"], y = new Float32Array(n * C);
    for (let i = 0; i < n * C; i += C) {
      let mean = 0, variance = 0;
      for (let c = 0; c < C; c++) mean += x[i + c] / C;
      for (let c = 0; c < C; c++) variance += (x[i + c] - mean) ** 2 / C;
      const scale = 1 / Math.sqrt(variance + this.eps);
      for (let c = 0; c < C; c++) y[i + c] = (x[i + c] - mean) * scale * w[c] + b[c];
    }
    return y;
  }

  dense(x, n, name, inputs, outputs) {
    const y = new Float32Array(n * outputs);
    linear(y, x, n, this.w[name + ".weight"], this.w[name + ".bias"], inputs, outputs);
    return y;
  }

  // Run the tokens start to end through the blocks. Those before stand in the cache already and change nothing.
  // blank: {first, end}, tokens whose words are hidden: their vectors are zero, their positions stay.
  run(cache, ids, start, end, blank) {
    const C = this.C, hs = C / this.nh, n = end - start, x = new Float32Array(n * C);
    for (let t = start; t < end; t++) {
      const word = ids[t] * C, hide = blank && t >= blank.first && t < blank.end;
      for (let c = 0; c < C; c++) {
        x[(t - start) * C + c] = this.w["pos_embedding.weight"][t * C + c] +
          (hide ? 0 : this.w["word_embedding.weight"][word + c]);
      }
    }
    for (let l = 0; l < this.layers; l++) {
      const name = "gpt_layers." + l, { q, k, v } = cache.layers[l];
      const normed = this.norm(x, n, name + ".attention_layer_norm");
      for (const [part, rows] of [["query", q], ["key", k], ["value", v]]) {
        rows.set(this.dense(normed, n, `${name}.self_attention.${part}`, C, C), start * C);
      }
      const mixed = new Float32Array(n * C);
      for (let t = start; t < end; t++) {
        for (let h = 0; h < C; h += hs) {
          const weights = this.look(q, k, t, h), to = (t - start) * C + h;
          for (let j = 0; j <= t; j++) for (let c = 0; c < hs; c++) mixed[to + c] += weights[j] * v[j * C + h + c];
        }
      }
      const attended = this.dense(mixed, n, name + ".attention_dense", C, C);
      for (let i = 0; i < n * C; i++) x[i] += attended[i];
      const inner = this.dense(this.norm(x, n, name + ".out_layer_norm"), n, name + ".interm_dense", C, this.inner);
      inner.forEach((value, i) => { inner[i] = GELU[this.gelu](value); });
      const out = this.dense(inner, n, name + ".out_dense", this.inner, C);
      for (let i = 0; i < n * C; i++) x[i] += out[i];
    }
    cache.hidden.set(this.norm(x, n, "final_layer_norm"), start * C);
  }

  // How much token t looks at each token up to itself, in the head whose channels begin at h: weights that sum to 1.
  look(q, k, t, h) {
    const C = this.C, hs = C / this.nh, scores = new Float64Array(t + 1);
    for (let j = 0; j <= t; j++) {
      let sum = 0;
      for (let c = h; c < h + hs; c++) sum += q[t * C + c] * k[j * C + c];
      scores[j] = sum / Math.sqrt(hs);
    }
    return softmax(scores);
  }

  // The largest few next tokens after token t: [[id, probability], ...].
  next(cache, t, few) {
    const C = this.C, words = this.w["word_embedding.weight"], V = words.length / C, scores = new Float32Array(V);
    linear(scores, cache.hidden.subarray(t * C, (t + 1) * C), 1, words, new Float32Array(V), C, V);
    const p = softmax(scores);
    return Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, few).map((id) => [id, p[id]]);
  }
}

function bytesOf(letters) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(letters); // browsers from 2025 on
  const text = atob(letters), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Base64 -> numbers: float32, float16, or int8 with a scale for each row, perhaps added to another tensor.
function unpack(letters, entries) {
  const bytes = bytesOf(letters);
  const halves = Float32Array.from({ length: 65536 }, (_, bits) => {
    const exponent = (bits >> 10) & 31, rest = bits & 1023, sign = bits >> 15 ? -1 : 1;
    return sign * (exponent ? (1 + rest / 1024) * 2 ** (exponent - 15) : rest * 2 ** -24);
  });
  const read = [];
  for (const { form, shape, at, plus } of entries) {
    const rows = shape[0], columns = shape[1] ?? 1, count = rows * columns;
    let values = new Float32Array(count);
    if (form === "float32") values = new Float32Array(bytes.buffer, at, count);
    else if (form === "float16") {
      const raw = new Uint16Array(bytes.buffer, at, count);
      for (let i = 0; i < count; i++) values[i] = halves[raw[i]];
    } else {
      const scales = new Float32Array(bytes.buffer, at, rows), raw = new Int8Array(bytes.buffer, at + 4 * rows, count);
      for (let i = 0, row = 0; row < rows; row++) {
        for (let c = 0; c < columns; c++, i++) values[i] = scales[row] * raw[i] + (plus === null ? 0 : read[plus][i]);
      }
    }
    read.push(values);
  }
  return read;
}

let reader, head, classifier, backbone, kept, keptBackbone, latest = 0;

function start({ data, weights }) {
  const tensors = unpack(weights, data.entries);
  const model = (names) => new GPT2(data.shape, Object.fromEntries(
    Object.entries(names).map(([name, number]) => [name, tensors[number]])));
  reader = new Reader(data.tokenizer);
  classifier = model(data.classifier);
  const same = data.backbone && Object.keys(data.backbone).every((key) => data.backbone[key] === data.classifier[key]);
  backbone = data.backbone && (same ? classifier : model(data.backbone));
  head = data.head;
  kept = classifier.cache(data.tokenizer.maxLength);
  keptBackbone = same || !backbone ? kept : backbone.cache(data.tokenizer.maxLength);
}

// Other messages are read between two slices of work: so a text that has changed ends the work on the old one.
const pause = () => new Promise((go) => { setTimeout(go); });
const stale = (turn) => turn !== latest;

// Bring a cache to these ids: tokens that it holds from the text before stay. False if the text has changed meanwhile.
async function extend(model, cache, ids, turn) {
  let at = 0;
  while (at < ids.length && cache.ids[at] === ids[at]) at++;
  cache.ids.length = Math.min(at, cache.ids.length);
  while (at < ids.length) {
    const end = Math.min(ids.length, at + 32);
    model.run(cache, ids, at, end);
    cache.ids.push(...ids.slice(at, end));
    at = end;
    await pause();
    if (stale(turn)) return false;
  }
  return true;
}

function logits(cache, t) {
  const C = classifier.C;
  return head.bias.map((bias, label) => {
    let sum = bias;
    for (let c = 0; c < C; c++) sum += head.weight[label][c] * cache.hidden[t * C + c];
    return sum;
  });
}

// The last `most` tokens: how much each looks at each, for all heads of all layers in turn.
function attention(ids, most) {
  const from = Math.max(0, ids.length - most), size = ids.length - from, { layers, nh, C } = classifier;
  const maps = new Float32Array(layers * nh * size * size);
  for (let l = 0, at = 0; l < layers; l++) {
    for (let h = 0; h < nh; h++, at += size * size) {
      for (let t = from; t < ids.length; t++) {
        const weights = classifier.look(kept.layers[l].q, kept.layers[l].k, t, h * C / nh);
        for (let j = from; j <= t; j++) maps[at + (t - from) * size + j - from] = weights[j];
      }
    }
  }
  return { layers, heads: nh, size, maps, tokens: ids.slice(from).map((id) => reader.nameOf(id)) };
}

async function answer(text, turn) {
  const { ids, words, tokens } = reader.read(text), last = ids.length - 1;
  if (!await extend(classifier, kept, ids, turn)) return;
  const steps = words.map((word) => softmax(logits(kept, word.end - 1)));
  const probabilities = softmax(logits(kept, last));
  postMessage({ turn, answer: { probabilities, steps, words: words.map((word) => word.text), tokens, read: ids.length,
    attention: attention(ids, 32) } });

  if (backbone && await extend(backbone, keptBackbone, ids, turn)) {
    postMessage({ turn, guesses: backbone.next(keptBackbone, last, 5).map(([id, p]) => [reader.nameOf(id), p]) });
  }

  // Each word's share: how far the probability falls when the word is blank. From the last word to the first, so that
  // the tokens before it stand in the cache as they are.
  const label = probabilities.indexOf(Math.max(...probabilities)), scratch = classifier.cache(ids.length);
  scratch.layers.forEach((layer, l) => ["q", "k", "v"].forEach((part) =>
    layer[part].set(kept.layers[l][part].subarray(0, ids.length * classifier.C))));
  const shares = words.map(() => null);
  for (let w = words.length - 1, told = performance.now(); w >= 0; w--) {
    await pause();
    if (stale(turn)) return;
    classifier.run(scratch, ids, words[w].first, ids.length, words[w]);
    shares[w] = probabilities[label] - softmax(logits(scratch, last))[label];
    if (w === 0 || performance.now() - told > 150) {
      postMessage({ turn, shares });
      told = performance.now();
    }
  }
}

// Compare with what PyTorch has answered to some texts: the largest difference of a logit, and whether tokens differ.
async function check(texts) {
  let difference = 0, different = 0;
  const answers = [];
  for (const { text, ids, logits: want } of texts) {
    const read = reader.read(text).ids, cache = classifier.cache(read.length);
    if (read.join() !== ids.join()) different++;
    classifier.run(cache, read, 0, read.length);
    answers.push(logits(cache, read.length - 1));
    answers.at(-1).forEach((value, i) => {
      difference = Math.max(difference, Number.isFinite(value) ? Math.abs(value - want[i]) : Infinity);
    });
    await pause();
  }
  postMessage({ checked: { difference, different, texts: texts.length, answers } });
}

onmessage = async ({ data: message }) => {
  try {
    if (message.data) { start(message); postMessage({ ready: true }); }
    else if (message.check) await check(message.check);
    else if (message.read) postMessage({ tokens: message.read.map((text) => reader.read(text).ids) });
    else { latest = message.turn; await answer(message.text, message.turn); }
  } catch (error) {
    postMessage({ failed: String(error) });
  }
};

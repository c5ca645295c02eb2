// Two ways to make an element, and how large one is.

/** Make an HTML element with attributes and children (elements or text). */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an SVG element likewise. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/**
 * The inner size of an element, {width, height} in px, as of the last layout: asking the element
 * itself would have the browser lay out the page again for each answer.
 */
export function sizeOf(box) {
  const size = { width: 0, height: 0 };
  new ResizeObserver(
    ([
      {
        contentRect: { width, height },
      },
    ]) => {
      Object.assign(size, { width: Math.floor(width), height: Math.floor(height) });
    },
  ).observe(box);
  return size;
}

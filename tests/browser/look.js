// What is wrong with the page as it is shown now; a list of sentences, empty if nothing is.
() => {
  const wrong = [];
  const isShown = (element) => element.checkVisibility() && !element.closest(".hidden, .skip, title, desc");
  const say = (element) => `<${element.tagName.toLowerCase()}> ${element.textContent.trim().slice(0, 50)}`;

  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  for (const element of document.body.querySelectorAll("*")) {
    if (!isShown(element) || element.closest("svg svg")) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > root.clientWidth + 1 || box.left < -1)) wrong.push(`leaves the window: ${say(element)}`);
  }

  for (const cell of document.querySelectorAll("th, td")) {
    if (!isShown(cell) || !cell.textContent.trim() || cell.closest("thead")?.matches(".hidden")) continue;
    const style = getComputedStyle(cell.closest("thead") ?? cell);
    if (style.clipPath !== "none") continue;
    const box = cell.getBoundingClientRect();
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      if (!isShown(walker.currentNode.parentElement)) continue;
      const range = document.createRange();
      range.selectNode(walker.currentNode);
      const text = range.getBoundingClientRect();
      if (text.left < box.left - 1 || text.right > box.right + 1) wrong.push(`leaves its cell: ${say(cell)}`);
    }
  }

  for (const chart of document.querySelectorAll("svg.chart")) {
    if (!isShown(chart)) continue;
    const frame = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
    texts.forEach(([text, box], place) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        wrong.push(`leaves its chart: ${say(text)}`);
      for (const [other, at] of texts.slice(place + 1)) {
        const isApart = box.right <= at.left + 0.5 || at.right <= box.left + 0.5 || box.bottom <= at.top + 3 || at.bottom <= box.top + 3;
        if (!isApart) wrong.push(`overlap in a chart: ${say(text)} and ${say(other)}`);
      }
      const size = box.height / (text.getBBox().height || 1) * 12;
      if (size < 10) wrong.push(`letters of ${size.toFixed(1)} px: ${say(text)}`);
    });
  }

  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!hasText || !isShown(element)) continue;
    const style = getComputedStyle(element);
    const [one, other] = [light(element.closest("svg") ? style.fill : style.color), light(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(1)}: ${say(element)}`);
  }
  return [...new Set(wrong)];
}

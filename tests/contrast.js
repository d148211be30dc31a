// The contrast ratio (WCAG 2) of every text on the page with what is behind it.
() => {
  const parts = (color) => {
    const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const over = ({ rgb, alpha }, below) =>
    rgb.map((value, index) => alpha * value + (1 - alpha) * below[index]);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) =>
    element
      ? over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement))
      : [255, 255, 255];
  const hasText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const skipped = "script, noscript, title, option, optgroup";
  return [...document.querySelectorAll("body *")]
    .filter((element) => hasText(element) && !element.matches(skipped))
    .map((element) => {
      const style = getComputedStyle(element);
      const background = behind(element);
      const color = element.closest("svg") ? style.fill : style.color;
      const [low, high] = [luminance(over(parts(color), background)), luminance(background)]
        .sort((one, other) => one - other);
      return {
        element: element.localName,
        text: element.textContent.trim(),
        ratio: (high + 0.05) / (low + 0.05),
      };
    });
}

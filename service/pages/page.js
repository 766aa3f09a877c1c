document.querySelectorAll("th").forEach((header) => {
  header.tabIndex = 0;
  header.addEventListener("keydown", (event) => event.key === "Enter" && header.click());
  header.addEventListener("click", () => sortBy(header));
});

function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = (row) => row.cells[header.cellIndex].textContent;
  const compare = (a, b) =>
    parseFloat(a) - parseFloat(b) || a.localeCompare(b, "en", { numeric: true });
  body.append(...Array.from(body.rows).sort((one, two) => {
    const [a, b] = [key(one), key(two)];
    return a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b);
  }));
  header.parentElement.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}

(async () => {
  const packed = document.getElementById("plotly").textContent;
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const library = document.createElement("script");
  library.textContent = await new Response(stream).text();
  document.head.append(library);
  for (const plot of document.querySelectorAll(".plot")) {
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    plot.textContent = "";
    const buttons = [["toImage", "resetScale2d"]];
    const options = { responsive: true, displaylogo: false, modeBarButtons: buttons };
    await Plotly.newPlot(plot, figure.data, figure.layout, options);
  }
})();

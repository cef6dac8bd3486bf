// Keeps the state of a page in its address: a control or a click changes one parameter, and the page follows.
"use strict";

(() => {
  const set = (name, value, fallback) => {
    const params = new URLSearchParams(location.search);
    if (!value || value === fallback) params.delete(name);
    else params.set(name, value);
    const query = params.toString();
    if (query === new URLSearchParams(location.search).toString()) return;
    history.pushState({}, "", location.pathname + (query ? "?" + query : ""));
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  };

  window.recsysPage = { set };

  document.addEventListener("change", (event) => {
    const name = event.target.dataset && event.target.dataset.param;
    if (name) set(name, event.target.value, event.target.dataset.default);
  });

  let typing = 0;
  const search = (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => window.dash_clientside.set_props("query", { data: event.target.value }), 200);
  };
  document.addEventListener("input", (event) => { if (event.target.id === "search") search(event); });
  document.addEventListener("click", (event) => {
    if (!event.target.closest || !event.target.closest(".found a")) return;
    document.getElementById("search").value = "";
    window.dash_clientside.set_props("query", { data: "" });
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "search" && event.key === "Enter") event.preventDefault();
  });

  // The session ended: the server answers a reload with the form to sign in, which leads back here.
  const plainFetch = window.fetch;
  window.fetch = async (...request) => {
    const answer = await plainFetch(...request);
    if (answer.status === 401) location.reload();
    return answer;
  };

  const theme = () => localStorage.getItem("theme")
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme();
  document.addEventListener("click", (event) => {
    if (event.target.id !== "theme") return;
    localStorage.setItem("theme", theme() === "dark" ? "light" : "dark");
    document.documentElement.dataset.theme = theme();
  });

  // The link of the page that is shown.
  const mark = () => document.querySelectorAll("nav a.page").forEach((link) => {
    if (link.getAttribute("href") === location.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  new MutationObserver(() => {
    mark();
    const title = document.getElementById("title");
    const name = title && title.textContent ? title.textContent + ": recsys" : document.title;
    if (document.title !== name) document.title = name;
    // plotly's buttons are links without an address, and its canvases have no text.
    document.querySelectorAll(".modebar-btn:not([role])").forEach((button) => {
      button.setAttribute("role", "button");
      button.setAttribute("aria-label", button.dataset.title || "tool");
    });
  }).observe(document.documentElement, { childList: true, subtree: true });

  const unchanged = () => window.dash_clientside.no_update;
  const point = (data) => data && data.points && data.points[0] && data.points[0].customdata;
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    recsys: {
      address(pathname, search, before) {
        const params = new URLSearchParams(search || "");
        if (/\/map$/.test(pathname)) params.delete("item");
        const address = pathname + "?" + params;
        return address === before ? unchanged() : address;
      },
      focused(data) {
        window.recsysFocus(data);
        return unchanged();
      },
      opened(data) {
        if (point(data)) {
          const params = new URLSearchParams(location.search);
          const kept = params.has("version") ? { version: params.get("version") } : {};
          const query = new URLSearchParams({ ...kept, item: String(point(data)) });
          history.pushState({}, "", location.pathname.replace(/[^/]*$/, "item") + "?" + query);
          window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
        }
        return unchanged();
      },
      opened_user(data) {
        if (point(data)) set("user", String(point(data)));
        return unchanged();
      },
      asked_user(value) {
        set("user", value || "");
        return unchanged();
      },
    },
  });
})();

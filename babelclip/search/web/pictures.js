// A picture as the question: chosen with the button, pasted, or dropped anywhere on the page.

/**
 * @param {{button: HTMLElement, file: HTMLInputElement, curtain: HTMLElement}} parts
 * @param {(picture: Blob) => void} take
 */
export function listenForPictures({ button, file, curtain }, take) {
  button.addEventListener('click', () => file.click());
  file.addEventListener('change', () => {
    if (file.files[0]) take(file.files[0]);
    file.value = ''; // the same file can be chosen twice
  });
  document.addEventListener('paste', (event) => {
    const picture = firstPicture(event.clipboardData?.files);
    if (!picture) return;
    event.preventDefault();
    take(picture);
  });
  // A page sees files only when they are dropped, so anything that holds files shows the curtain.
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  document.addEventListener('dragover', (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    curtain.hidden = false;
  });
  document.addEventListener('dragleave', (event) => {
    if (event.relatedTarget === null) curtain.hidden = true;
  });
  document.addEventListener('drop', (event) => {
    curtain.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    const picture = firstPicture(event.dataTransfer.files);
    if (picture) take(picture);
  });
}

const firstPicture = (files) => [...(files ?? [])].find((one) => one.type.startsWith('image/'));

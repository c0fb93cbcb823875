"""The spellings of a secret, made by the standard library."""

import base64
import html
import json
from urllib.parse import quote, quote_plus


def spell(secret: str) -> dict[str, str]:
    """Return a secret in many spellings, by name."""
    content = secret.encode()
    spellings = {
        "plain": secret,
        "json": json.dumps(secret)[1:-1],
        "json in json": json.dumps(json.dumps(secret))[1:-1],
        "json with slashes": json.dumps(secret)[1:-1].replace("/", "\\/"),
        "json escapes": "".join(f"\\u{ord(letter):04x}" for letter in secret),
        "json escapes in json": "".join(f"\\\\u{ord(letter):04X}" for letter in secret),
        "bytes": "".join(f"\\x{ord(letter):02x}" for letter in secret),
        "url": quote(secret, safe=""),
        "all of it in percents": "".join(f"%{byte:02x}" for byte in content),
        "url in url": quote(quote(secret, safe=""), safe=""),
        "form": quote_plus(secret),
        "html": html.escape(secret),
        "html numbers": "".join(f"&#{ord(letter)};" for letter in secret),
        "hexadecimal": content.hex(),
        "hexadecimal with colons": content.hex(":").upper(),
        "folded header": secret[:7] + "\r\n  " + secret[7:],
        "quoted-printable": secret[:5] + "=\n" + secret[5:],
        "indented": secret[:5] + "\n        " + secret[5:],
        "folded in json": secret[:4] + "\\r\\n  " + secret[4:],
        "octal": "".join(f"\\{byte:03o}" for byte in content),
        "octal in json": "".join(f"\\\\{byte:03o}" for byte in content),
        "braces": "".join(f"\\u{{{ord(letter):x}}}" for letter in secret),
        "wide escapes": "".join(f"\\U{ord(letter):08x}" for letter in secret),
        "html numbers with zeros": "".join(f"&#{ord(letter):05d};" for letter in secret),
        "colours": f"{secret[:5]}\x1b[1;31m{secret[5:]}",
        "colours in json": f"{secret[:5]}\\u001b[0m{secret[5:]}",
        "quoted lines": secret[:5] + "\n> " + secret[5:],
        "lines of a diff": secret[:5] + "\n+" + secret[5:],
        "lines of a list in json": secret[:5] + "\\n- " + secret[5:],
        "blanks before a break": secret[:5] + "  \n \n\t" + secret[5:],
    }
    for shift in range(3):
        encoded = base64.b64encode(b"u:p"[:shift] + content).decode()
        urlsafe = base64.urlsafe_b64encode(b"u:p"[:shift] + content).decode()
        spellings |= {
            f"base64 {shift}": encoded,
            f"base64 for URLs {shift}": urlsafe,
            f"base64 in lines {shift}": "\r\n".join(encoded[at : at + 7] for at in range(0, len(encoded), 7)),
        }
    return spellings

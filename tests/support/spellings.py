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
